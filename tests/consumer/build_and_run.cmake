# Configures, builds and runs one consumer project in an empty folder.
#   cmake -DSOURCE=.. -DBINARY=.. -DGENERATOR=.. -DCOMPILER=.. -DFLAGS=.. -DHEED_SOURCE_DIR=.. -DHEED_VERSION=..
#         -DPREFIX=.. -P build_and_run.cmake
file(REMOVE_RECURSE "${BINARY}")
execute_process(
  COMMAND "${CMAKE_COMMAND}" -S "${SOURCE}" -B "${BINARY}" -G "${GENERATOR}" --no-warn-unused-cli
          -DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DCMAKE_CXX_FLAGS=${FLAGS}"
          "-DHEED_SOURCE_DIR=${HEED_SOURCE_DIR}" "-DHEED_VERSION=${HEED_VERSION}" "-DCMAKE_PREFIX_PATH=${PREFIX}"
          COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${CMAKE_COMMAND}" --build "${BINARY}" COMMAND_ERROR_IS_FATAL ANY)
file(GLOB programs "${BINARY}/program" "${BINARY}/*_program")
foreach(program IN LISTS programs)
  execute_process(COMMAND "${program}" COMMAND_ERROR_IS_FATAL ANY)
endforeach()
