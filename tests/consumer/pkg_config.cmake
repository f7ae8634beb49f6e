# Compiles and runs the program with the flags of an installed heed.pc.
#   cmake -DPREFIX=.. -DBINARY=.. -DPROGRAM=.. -DVERSION=.. -DCOMPILER=.. -DPKG_CONFIG=.. -P pkg_config.cmake
set(ENV{PKG_CONFIG_PATH} "${PREFIX}/share/pkgconfig")
execute_process(COMMAND "${PKG_CONFIG}" --modversion heed OUTPUT_VARIABLE version OUTPUT_STRIP_TRAILING_WHITESPACE
                        COMMAND_ERROR_IS_FATAL ANY)
if(NOT version STREQUAL VERSION)
  message(FATAL_ERROR "heed.pc says version ${version}, expected ${VERSION}")
endif()
execute_process(COMMAND "${PKG_CONFIG}" --cflags --libs heed OUTPUT_VARIABLE flags OUTPUT_STRIP_TRAILING_WHITESPACE
                        COMMAND_ERROR_IS_FATAL ANY)
separate_arguments(flags UNIX_COMMAND "${flags}")
file(MAKE_DIRECTORY "${BINARY}")
execute_process(COMMAND "${COMPILER}" -std=c++20 "${PROGRAM}" ${flags} -o "${BINARY}/program"
                        COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${BINARY}/program" COMMAND_ERROR_IS_FATAL ANY)
