add_executable(map_file support/map_file.cc)

add_library(restore_in_c STATIC support/restore_in_c.c)
target_link_libraries(restore_in_c PRIVATE thaw)

# A sanitizer's runtime does not work in programs that were built without it. Memory of which no
# handler said that it is done stays mapped for good.
thaw_add_test(vmm_client_test
  SOURCES vmm_client_test.cc support/huge_page_pool.cc TIMEOUT 120
  NOT_SANITIZED QemuPreloadTest.*:QemuTest.*:*IsHandedOverToRootOrTheHandlersUserAlone
  LIBRARIES restore_in_c thaw_base thaw_handoff thaw_guest_memory thaw)
add_dependencies(vmm_client_test thaw_qemu map_file)
target_compile_definitions(vmm_client_test PRIVATE
  THAW_QEMU_OBJECT="$<TARGET_FILE:thaw_qemu>" MAP_FILE_PROGRAM="$<TARGET_FILE:map_file>")
