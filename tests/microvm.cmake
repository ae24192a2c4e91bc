if(TARGET thaw_microvm)
  thaw_add_test(microvm_test
    SOURCES microvm_state_test.cc microvm_test.cc support/kvm.cc support/sample_microvm.cc
    LIBRARIES thaw_microvm thaw_test_programs)
  thaw_add_test(microvm_restore_test SOURCES microvm_restore_test.cc support/kvm.cc TIMEOUT 120
    LIBRARIES thaw_microvm thaw_test_programs nlohmann_json::nlohmann_json)
  add_dependencies(microvm_restore_test thaw-microvm thaw-pageserver thaw-faulthandler thaw-cli)
endif()
