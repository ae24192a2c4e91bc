# LeakSanitizer needs /proc, which a jail has not.
thaw_add_test(jail_test SOURCES jail_test.cc TIMEOUT 120
  NOT_SANITIZED *VmmIsServedThroughTheSocketOfItsJail*:*VmmThatMapsTheHostsImageIsServed*
  LIBRARIES thaw_test_restore)
add_dependencies(jail_test vmm without_io_uring thaw-pageserver thaw-faulthandler thaw-cli)
