# LeakSanitizer needs /proc, which a jail has not.
thaw_add_test(jail_test SOURCES jail_test.cc support/restore_fixture.cc TIMEOUT 120
  NOT_SANITIZED *VmmIsServedThroughTheSocketOfItsJail*:*VmmThatMapsTheHostsImageIsServed*
  LIBRARIES thaw_format thaw_test_programs nlohmann_json::nlohmann_json)
add_dependencies(jail_test vmm without_io_uring thaw-pageserver thaw-faulthandler thaw-cli)
