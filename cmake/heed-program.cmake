# How tests, benchmarks and examples are built. Nothing here reaches users of heed::heed.

# heed_program(<target> <source>...). In a folder that sets heed_check_programs it is compiled without writing code, in a
# quarter of the time, and not linked; unless a test has called heed_runs.
function(heed_program target)
  get_property(run GLOBAL PROPERTY heed_run_programs)
  if(heed_check_programs AND NOT target IN_LIST run)
    add_library(${target} OBJECT ${ARGN})
    target_compile_options(${target} PRIVATE -fsyntax-only)
  else()
    add_executable(${target} ${ARGN})
  endif()
  heed_program_options(${target})
endfunction()

# heed_runs(<target>): a test runs this program, which may come later.
function(heed_runs target)
  set_property(GLOBAL APPEND PROPERTY heed_run_programs ${target})
endfunction()

# heed_program_options(<target>): heed with its components, warnings, and -O3 where no build type asks
# for anything else.
function(heed_program_options target)
  target_link_libraries(${target} PRIVATE heed::heed heed::eigen)
  if(TARGET OpenMP::OpenMP_CXX)
    target_link_libraries(${target} PRIVATE heed::openmp)
  endif()
  heed_warnings(${target})
  target_compile_options(${target} PRIVATE "$<$<STREQUAL:$<CONFIG>,>:-O3>")
endfunction()

# heed_warnings(<target>)
function(heed_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow)
endfunction()

# heed_programs(<variable> <prefix>): what is dropped into the current folder becomes a program. `name.cpp` is a program
# of its own. A folder with a CMakeLists.txt says itself what it is; any other with a `main.cpp` or `<folder>.cpp` is one
# program of all its .cpp files. <variable> receives the names of the programs made here, each `<prefix><name>`.
function(heed_programs variable prefix)
  set(programs "")
  file(GLOB sources CONFIGURE_DEPENDS *.cpp)
  foreach(source IN LISTS sources)
    cmake_path(GET source STEM name)
    heed_program(${prefix}${name} ${source})
    list(APPEND programs ${prefix}${name})
  endforeach()

  file(GLOB files CONFIGURE_DEPENDS */CMakeLists.txt */*.cpp)
  list(TRANSFORM files REPLACE "/[^/]+$" "" OUTPUT_VARIABLE folders)
  list(REMOVE_DUPLICATES folders)
  foreach(folder IN LISTS folders)
    cmake_path(GET folder FILENAME name)
    if(EXISTS "${folder}/CMakeLists.txt")
      add_subdirectory(${folder})
    elseif(EXISTS "${folder}/main.cpp" OR EXISTS "${folder}/${name}.cpp")
      file(GLOB sources CONFIGURE_DEPENDS ${folder}/*.cpp)
      heed_program(${prefix}${name} ${sources})
      list(APPEND programs ${prefix}${name})
    endif()
  endforeach()
  set(${variable} ${programs} PARENT_SCOPE)
endfunction()
