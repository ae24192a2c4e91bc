thaw_add_test(store_test SOURCES store_test.cc
  LIBRARIES thaw_pageserver_sys thaw_test_programs PkgConfig::rocksdb)

thaw_add_test(pageserver_test SOURCES pageserver_test.cc TIMEOUT 180
  LIBRARIES thaw_format thaw_test_programs nlohmann_json::nlohmann_json)
add_dependencies(pageserver_test thaw-pageserver thaw-cli)
