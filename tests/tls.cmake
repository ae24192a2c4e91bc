thaw_add_test(tls_test SOURCES tls_test.cc TIMEOUT 120
  LIBRARIES thaw_test_restore thaw_test_authority)
add_dependencies(tls_test vmm without_io_uring thaw-pageserver thaw-faulthandler thaw-cli)

thaw_add_test(access_test SOURCES access_test.cc
  LIBRARIES thaw_pageserver_sys thaw_test_authority)
thaw_add_test(server_connection_test SOURCES server_connection_test.cc
  LIBRARIES thaw_faulthandler_sys thaw_test_authority thaw_test_programs)
