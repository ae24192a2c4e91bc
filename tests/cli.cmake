thaw_add_test(cli_test SOURCES cli_plot_test.cc cli_test.cc record_test.cc support/scripted_handler.cc
  LIBRARIES thaw_cli_core thaw_test_programs nlohmann_json::nlohmann_json)
add_dependencies(cli_test thaw-cli)
