if(NOT THAW_SANITIZE)  # nothing is measured with one
  thaw_add_test(bench_test SOURCES bench_test.cc
    LIBRARIES thaw_bench_core thaw_test_programs nlohmann_json::nlohmann_json)

  # Heavy: under sanitizers its page faults take minutes.
  thaw_add_test(bench_run_test SOURCES bench_run_test.cc LABELS heavy TIMEOUT 120
    LIBRARIES thaw_test_programs nlohmann_json::nlohmann_json)
  add_dependencies(bench_run_test thaw-bench)
endif()
