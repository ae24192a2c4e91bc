if(NOT THAW_SANITIZE)  # whose programs keep their system calls
  thaw_add_test(confine_test SOURCES confine_test.cc TIMEOUT 120
    LIBRARIES thaw_confine thaw_test_restore)
  add_dependencies(confine_test vmm without_io_uring thaw-pageserver thaw-faulthandler thaw-cli)
endif()
