if(NOT THAW_SANITIZE)  # a sanitizer's library does not load into a program built without
  thaw_add_test(installed_library_test
    SOURCES installed_library_test.cc TIMEOUT 120
    LIBRARIES thaw_test_restore)
  add_dependencies(installed_library_test
    thaw thaw_qemu thaw-pageserver thaw-faulthandler thaw-cli)
  target_compile_definitions(installed_library_test PRIVATE
    THAW_SOURCE_DIR="${CMAKE_SOURCE_DIR}" THAW_BINARY_DIR="${CMAKE_BINARY_DIR}"
    THAW_LIBRARY_DIR="${CMAKE_INSTALL_LIBDIR}" THAW_C_COMPILER="${CMAKE_C_COMPILER}"
    THAW_CMAKE="${CMAKE_COMMAND}" THAW_PKG_CONFIG="${PKG_CONFIG_EXECUTABLE}")
endif()
