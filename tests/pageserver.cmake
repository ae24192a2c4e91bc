thaw_add_test(pageserver_core_test
  SOURCES chunk_set_test.cc credible_time_test.cc descriptors_test.cc fair_queue_test.cc rank_test.cc retention_test.cc snapshot_pins_test.cc store_id_test.cc strangers_test.cc
  LIBRARIES thaw_pageserver_core thaw_test_programs)

thaw_add_test(store_test
  SOURCES collection_test.cc kept_pages_test.cc outdated_snapshots_test.cc pack_check_test.cc page_hash_lists_test.cc pending_offers_test.cc store_damage_test.cc
          store_test.cc store_names_test.cc verification_test.cc working_set_build_test.cc working_set_store_test.cc
  LIBRARIES thaw_pageserver_sys thaw_test_programs thaw_test_raw_store)

# A sanitizer's own memory leaves no room below a bound on address space; nor for a push, below.
thaw_add_test(pageserver_test SOURCES pageserver_test.cc TIMEOUT 180
  NOT_SANITIZED FewConnectionsTest.WithoutAThread*:FewConnectionsTest.RequestsForWhich*
  LIBRARIES thaw_test_wire nlohmann_json::nlohmann_json)
add_dependencies(pageserver_test thaw-pageserver thaw-cli)

thaw_add_test(push_test SOURCES push_test.cc transfer_test.cc TIMEOUT 120
  NOT_SANITIZED TransferTest.PushThatGetsNoThreadOrMemoryEndsWithAnError
  LIBRARIES thaw_test_wire nlohmann_json::nlohmann_json)
add_dependencies(push_test thaw-pageserver thaw-cli without_io_uring)

thaw_add_test(working_sets_test SOURCES working_sets_test.cc TIMEOUT 120
  LIBRARIES thaw_pageserver_core thaw_test_wire)
add_dependencies(working_sets_test thaw-pageserver)

thaw_add_test(upkeep_test SOURCES reported_packs_test.cc upkeep_test.cc TIMEOUT 120
  LIBRARIES thaw_test_wire nlohmann_json::nlohmann_json thaw_test_raw_store)
add_dependencies(upkeep_test thaw-pageserver thaw-cli)
