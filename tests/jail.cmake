thaw_add_test(jail_test SOURCES jail_test.cc TIMEOUT 120
  LIBRARIES thaw_test_restore)
add_dependencies(jail_test vmm without_io_uring thaw-pageserver thaw-faulthandler thaw-cli)
