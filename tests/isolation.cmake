thaw_add_test(isolation_test SOURCES isolation_test.cc support/finished_job.cc support/page_connection.cc
  TIMEOUT 120 LIBRARIES thaw_format thaw_test_programs nlohmann_json::nlohmann_json)
add_dependencies(isolation_test thaw-pageserver thaw-cli)
