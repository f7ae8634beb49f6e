# Finds xsimd 8.1 or newer and makes the target `xsimd` safe to link. Used by heed's own build and by the installed
# package. On return `heed_xsimd_problem` is empty or says what is wrong.
#
# - Other processors than x86 and 64-bit ARM need none (simd/arch.hpp): there the target is empty if it must be.
# - The required version is checked here: xsimd's version file accepts only its own major number, so asking for 8.1
#   would refuse 9 and later.
# - Some builds of xsimd 8 make the target link `xtl`, a library that does not exist as a file; programs then fail to
#   link with "cannot find -lxtl". xsimd needs nothing of it unless XSIMD_ENABLE_XTL_COMPLEX is set.
set(heed_xsimd_problem "")

if(NOT TARGET xsimd)
  find_package(xsimd CONFIG QUIET)
endif()
if(NOT TARGET xsimd)
  # A bare copy of the headers will do.
  find_path(HEED_XSIMD_INCLUDE_DIR xsimd/xsimd.hpp)
  mark_as_advanced(HEED_XSIMD_INCLUDE_DIR)
  if(HEED_XSIMD_INCLUDE_DIR)
    add_library(xsimd INTERFACE IMPORTED)
    set_target_properties(xsimd PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${HEED_XSIMD_INCLUDE_DIR}")
  endif()
endif()

if(TARGET xsimd)
  get_target_property(heed_xsimd_dirs xsimd INTERFACE_INCLUDE_DIRECTORIES)
  set(heed_xsimd_version "")
  foreach(heed_xsimd_dir IN LISTS heed_xsimd_dirs)
    string(REGEX REPLACE "^\\$<BUILD_INTERFACE:(.*)>$" "\\1" heed_xsimd_dir "${heed_xsimd_dir}")
    set(heed_xsimd_file "${heed_xsimd_dir}/xsimd/config/xsimd_config.hpp")
    if(EXISTS "${heed_xsimd_file}" AND NOT heed_xsimd_version)
      file(STRINGS "${heed_xsimd_file}" heed_xsimd_version REGEX "define XSIMD_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
      string(REGEX REPLACE "[^0-9;]" "" heed_xsimd_version "${heed_xsimd_version}")
      list(JOIN heed_xsimd_version "." heed_xsimd_version)
    endif()
  endforeach()
  if(heed_xsimd_version VERSION_LESS 8.1)
    set(heed_xsimd_problem "needs xsimd 8.1 or newer, found '${heed_xsimd_version}' in '${heed_xsimd_dirs}'")
  endif()

  get_target_property(heed_xsimd_target xsimd ALIASED_TARGET)
  if(NOT heed_xsimd_target)
    set(heed_xsimd_target xsimd)
  endif()
  get_target_property(heed_xsimd_links ${heed_xsimd_target} INTERFACE_LINK_LIBRARIES)
  if("xtl" IN_LIST heed_xsimd_links AND NOT TARGET xtl)
    list(REMOVE_ITEM heed_xsimd_links xtl)
    set_target_properties(${heed_xsimd_target} PROPERTIES INTERFACE_LINK_LIBRARIES "${heed_xsimd_links}")
  endif()
elseif(CMAKE_SYSTEM_PROCESSOR AND NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86|i.86|amd64|AMD64|aarch64|arm64|ARM64)")
  add_library(xsimd INTERFACE IMPORTED)
else()
  set(heed_xsimd_problem "needs xsimd 8.1 or newer (package libxsimd-dev or xsimd), found none")
endif()
