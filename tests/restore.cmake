thaw_add_test(restore_test SOURCES restore_test.cc TIMEOUT 120
  LIBRARIES thaw_test_restore thaw_test_raw_store)
add_dependencies(restore_test vmm without_io_uring thaw-pageserver thaw-faulthandler thaw-cli)

# A sanitizer takes the signal of a poisoned page for its own.
thaw_add_test(failover_restore_test
  SOURCES failover_restore_test.cc TIMEOUT 120
  NOT_SANITIZED *PoisonedPageIsAnErrorForWhoeverTouchesIt*
  LIBRARIES thaw_test_restore thaw_test_raw_store thaw_test_wire)
add_dependencies(failover_restore_test vmm without_io_uring thaw-pageserver thaw-faulthandler thaw-cli)

thaw_add_test(replica_test SOURCES replica_test.cc TIMEOUT 120
  LIBRARIES thaw_test_restore)
add_dependencies(replica_test vmm without_io_uring thaw-pageserver thaw-faulthandler thaw-cli)

thaw_add_test(session_test
  SOURCES chunk_places_test.cc fault_core_test.cc memory_room_test.cc metrics_test.cc prefetch_core_test.cc server_choice_test.cc session_test.cc
  LIBRARIES thaw_faulthandler_core thaw_test_programs)

thaw_add_test(session_keep_test SOURCES errands_test.cc session_keep_test.cc vmm_door_test.cc
  LIBRARIES thaw_faulthandler_sys thaw_test_programs)
thaw_add_test(control_server_test SOURCES control_server_test.cc LABELS threads
  LIBRARIES thaw_faulthandler_sys)
thaw_add_test(supervisor_test SOURCES pulse_test.cc supervisor_test.cc
  LIBRARIES thaw_faulthandler_sys thaw_test_programs)
add_dependencies(supervisor_test thaw-faulthandler)

thaw_add_test(snapshot_source_test SOURCES snapshot_source_test.cc
  LIBRARIES thaw_faulthandler_core thaw_test_programs thaw_test_raw_store)
add_dependencies(snapshot_source_test thaw-pageserver thaw-cli)

add_library(thaw_test_guest STATIC support/scripted_server.cc support/served_guest.cc)
target_link_libraries(thaw_test_guest PUBLIC thaw_faulthandler_sys thaw_test_wire)
# A sanitizer maps memory of its own where a page was moved away from.
thaw_add_test(semantics_test SOURCES semantics_test.cc TIMEOUT 120
  NOT_SANITIZED *FaultThatIsReadBesideTheMoveOfItsPageEndsNobody*
  LIBRARIES thaw_test_guest)
thaw_add_test(failover_test SOURCES failover_test.cc TIMEOUT 120 LIBRARIES thaw_test_guest)
thaw_add_test(prefetch_test SOURCES prefetch_test.cc TIMEOUT 120 LABELS threads
  LIBRARIES thaw_test_guest)
thaw_add_test(huge_pages_test SOURCES huge_pages_test.cc support/huge_page_pool.cc
  LIBRARIES thaw_test_guest)
if(NOT THAW_SANITIZE)  # a sanitizer has its own malloc
  thaw_add_test(fault_path_test SOURCES fault_path_test.cc LIBRARIES thaw_test_guest)
endif()
# QEMU has no sanitizer for the object that is loaded into it.
thaw_add_test(shared_restore_test SOURCES shared_restore_test.cc TIMEOUT 120
  NOT_SANITIZED *QemuMapsTheImage*
  LIBRARIES thaw_test_restore)
add_dependencies(shared_restore_test vmm thaw_qemu without_io_uring thaw-pageserver thaw-faulthandler thaw-cli)

add_library(blocking_read MODULE support/blocking_read_preload.cc)
set_target_properties(blocking_read PROPERTIES PREFIX "" OUTPUT_NAME blocking-read)
add_library(slow_calls MODULE support/slow_calls_preload.cc)
set_target_properties(slow_calls PROPERTIES PREFIX "" OUTPUT_NAME slow-calls)
# A sanitizer's own memory leaves no room below a bound on address space, and its runtime has to be
# the first library that a program loads.
thaw_add_test(handler_crash_test SOURCES handler_crash_test.cc TIMEOUT 120
  NOT_SANITIZED
    *ProgramWhoseHandlersFailIsReplacedByTheOneBefore*:*VmOnWhoseMemoryHandlersStandStillIsSetAside*:*SlowVm*
  LIBRARIES thaw_test_restore)
add_dependencies(handler_crash_test blocking_read slow_calls vmm without_io_uring thaw-pageserver thaw-faulthandler thaw-cli)
