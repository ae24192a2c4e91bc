thaw_add_test(cli_test SOURCES cli_output_test.cc cli_plot_test.cc cli_test.cc page_tables_test.cc record_test.cc server_list_test.cc support/scripted_handler.cc support/wire_message.cc
  LIBRARIES thaw_cli_core thaw_test_programs nlohmann_json::nlohmann_json)
add_dependencies(cli_test thaw-cli)

thaw_add_test(recorded_restore_test SOURCES recorded_restore_test.cc TIMEOUT 120
  LIBRARIES thaw_format thaw_test_programs nlohmann_json::nlohmann_json)
add_dependencies(recorded_restore_test vmm thaw-pageserver thaw-faulthandler thaw-cli)

thaw_add_test(command_line_test SOURCES command_line_test.cc LIBRARIES thaw_command_line thaw_test_programs)
add_dependencies(command_line_test thaw-cli thaw-pageserver thaw-faulthandler)

thaw_add_test(cli_errors_test SOURCES cli_errors_test.cc support/scripted_handler.cc TIMEOUT 120
  LIBRARIES thaw_test_wire nlohmann_json::nlohmann_json)
add_dependencies(cli_errors_test thaw-cli thaw-pageserver)
