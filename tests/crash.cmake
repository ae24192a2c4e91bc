if(NOT THAW_SANITIZE)  # all of it is heavy
  add_library(lossy_disk MODULE support/disk_mirror.cc support/lossy_disk_preload.cc)
  set_target_properties(lossy_disk PROPERTIES PREFIX "" OUTPUT_NAME lossy-disk
    LINK_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/support/lossy_disk_preload.map)
  target_link_libraries(lossy_disk PRIVATE thaw_base ${CMAKE_DL_LIBS})
  target_link_options(lossy_disk PRIVATE LINKER:--as-needed
    LINKER:--version-script=${CMAKE_CURRENT_SOURCE_DIR}/support/lossy_disk_preload.map)

  add_executable(file_script support/file_script.cc)
  thaw_add_test(lossy_disk_test SOURCES lossy_disk_test.cc support/lossy_disk.cc LABELS heavy
    LIBRARIES thaw_test_programs)
  add_dependencies(lossy_disk_test file_script lossy_disk)

  add_library(thaw_test_lossy_server STATIC
    support/drawn_image.cc support/finished_job.cc support/lossy_disk.cc support/lossy_server.cc)
  target_link_libraries(thaw_test_lossy_server PUBLIC
    thaw_format thaw_test_programs thaw_test_support GTest::gtest)

  thaw_add_test(crash_test LABELS heavy TIMEOUT 300
    SOURCES crash_test.cc support/ledger.cc support/store_load.cc
    LIBRARIES thaw_test_wire thaw_test_lossy_server)
  add_dependencies(crash_test lossy_disk thaw-pageserver)

  thaw_add_test(collection_crash_test LABELS heavy TIMEOUT 180 SOURCES collection_crash_test.cc
    LIBRARIES thaw_test_lossy_server thaw_pageserver_sys)
  add_dependencies(collection_crash_test lossy_disk thaw-pageserver)
endif()

thaw_add_test(store_model_test TIMEOUT 180
  SOURCES store_model_test.cc support/drawn_image.cc support/stepped_push.cc
  LIBRARIES thaw_pageserver_sys thaw_test_raw_store)
