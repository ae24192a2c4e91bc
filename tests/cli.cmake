thaw_add_test(cli_test SOURCES cli_plot_test.cc record_test.cc support/scripted_handler.cc
  LIBRARIES thaw_cli_core thaw_test_programs)
