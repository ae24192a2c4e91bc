add_executable(hostile_vmm support/hostile_vmm.cc)
target_link_libraries(hostile_vmm PRIVATE thaw_handoff thaw_test_programs)

# A VMM that gets no answer to its farewell leaves its memory mapped, for a sanitizer a leak.
thaw_add_test(hostile_vmm_test SOURCES hostile_vmm_test.cc TIMEOUT 120
  NOT_SANITIZED *UnkillableHandlerTest*
  LIBRARIES thaw_test_restore)
add_dependencies(hostile_vmm_test
  hostile_vmm vmm without_io_uring thaw-pageserver thaw-faulthandler thaw-cli)

thaw_add_test(hostile_client_test SOURCES hostile_client_test.cc
  TIMEOUT 120 LIBRARIES thaw_test_wire)
add_dependencies(hostile_client_test thaw-pageserver thaw-cli)

thaw_add_test(hostile_server_test
  SOURCES hostile_server_test.cc verified_restore_test.cc TIMEOUT 120
  LIBRARIES thaw_test_restore thaw_test_raw_store thaw_test_wire)
add_dependencies(hostile_server_test
  vmm without_io_uring thaw-pageserver thaw-faulthandler thaw-cli)
