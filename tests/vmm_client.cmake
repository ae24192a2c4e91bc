add_executable(map_file support/map_file.cc)

add_executable(vmm_client_test vmm_client_test.cc support/huge_page_pool.cc
  support/restore_in_c.c)
target_link_libraries(vmm_client_test PRIVATE
  thaw_base thaw_handoff thaw_guest_memory thaw GTest::gtest_main)
add_dependencies(vmm_client_test thaw_qemu map_file)
target_compile_definitions(vmm_client_test PRIVATE
  THAW_QEMU_OBJECT="$<TARGET_FILE:thaw_qemu>" MAP_FILE_PROGRAM="$<TARGET_FILE:map_file>")
if(THAW_SANITIZE)
  # A sanitizer's runtime does not work in programs that were built without it.
  set(vmm_client_filter TEST_FILTER -QemuPreloadTest.*)
endif()
gtest_discover_tests(vmm_client_test ${vmm_client_filter} DISCOVERY_MODE PRE_TEST
  PROPERTIES TIMEOUT 120)
