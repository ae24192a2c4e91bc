thaw_add_test(restore_pool_test SOURCES restore_pool_test.cc support/scripted_shells.cc
  LIBRARIES thaw_restore_pool thaw_test_programs LABELS threads)
thaw_add_test(memory_shell_test SOURCES memory_shell_test.cc support/huge_page_pool.cc
  LIBRARIES thaw_restore_pool thaw_test_programs LABELS threads)
thaw_add_test(pooled_restore_test
  SOURCES pooled_restore_test.cc TIMEOUT 120
  LIBRARIES thaw_restore_pool thaw_test_restore)
add_dependencies(pooled_restore_test thaw-pageserver thaw-faulthandler thaw-cli)
thaw_add_test(tracked_writes_test
  SOURCES tracked_writes_test.cc support/huge_page_pool.cc TIMEOUT 120
  LIBRARIES thaw_guest_memory thaw_test_restore)
add_dependencies(tracked_writes_test thaw-pageserver thaw-faulthandler thaw-cli)
