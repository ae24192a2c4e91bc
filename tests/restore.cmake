thaw_add_test(restore_test SOURCES restore_test.cc TIMEOUT 120
  LIBRARIES thaw_handoff thaw_test_programs nlohmann_json::nlohmann_json PkgConfig::rocksdb)
add_dependencies(restore_test vmm without_io_uring thaw-pageserver thaw-faulthandler thaw-cli)

thaw_add_test(session_test SOURCES fault_core_test.cc session_test.cc LIBRARIES thaw_faulthandler_core)
