thaw_add_test(server_life_test SOURCES server_life_test.cc TIMEOUT 120
  NOT_SANITIZED Reload.PageServerFollowsNoLinkOutOfItsFiles
  LIBRARIES thaw_test_restore thaw_test_authority)
add_dependencies(server_life_test vmm thaw-pageserver thaw-faulthandler thaw-cli)
