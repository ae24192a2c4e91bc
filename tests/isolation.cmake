thaw_add_test(isolation_test SOURCES isolation_test.cc support/finished_job.cc
  TIMEOUT 120 LIBRARIES thaw_test_wire nlohmann_json::nlohmann_json)
add_dependencies(isolation_test thaw-pageserver thaw-cli)
