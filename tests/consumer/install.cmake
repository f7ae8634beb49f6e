# Installs heed, moves what was installed (it must not know where it was), compares the headers with the source, and
# looks for the license.
#   cmake -DSOURCE=.. -DBINARY=.. -DPREFIX=.. -P install.cmake
file(REMOVE_RECURSE "${PREFIX}" "${PREFIX}-before")
execute_process(COMMAND "${CMAKE_COMMAND}" --install "${BINARY}" --prefix "${PREFIX}-before" OUTPUT_QUIET
                        COMMAND_ERROR_IS_FATAL ANY)
file(RENAME "${PREFIX}-before" "${PREFIX}")

file(GLOB_RECURSE expected RELATIVE "${SOURCE}" "${SOURCE}/include/heed/*")
file(GLOB_RECURSE installed RELATIVE "${PREFIX}" "${PREFIX}/include/*")
if(NOT expected STREQUAL installed)
  set(missing ${expected})
  list(REMOVE_ITEM missing ${installed})
  list(REMOVE_ITEM installed ${expected})
  message(FATAL_ERROR "headers not installed: ${missing}; installed without need: ${installed}")
endif()
if(NOT EXISTS "${PREFIX}/share/licenses/heed/LICENSE")
  message(FATAL_ERROR "the license is not installed")
endif()
