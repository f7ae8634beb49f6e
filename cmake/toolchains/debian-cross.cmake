# Debian's cross compiler for the processor `heed_cross`, its programs run under qemu-user. Included by the toolchain
# files beside it, which say which of the host's header-only packages they need in `heed_host_packages`.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${heed_cross})
set(CMAKE_CXX_COMPILER ${heed_cross}-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR "qemu-${heed_cross};-L;/usr/${heed_cross}-linux-gnu")

# Header-only packages of the host serve every architecture, the rest of /usr/include does not. So links to those packages
# alone are what the find commands see.
set(heed_host_headers "${CMAKE_BINARY_DIR}/host-headers")
foreach(heed_path IN LISTS heed_host_packages)
  if(IS_DIRECTORY "/usr/${heed_path}" AND NOT EXISTS "${heed_host_headers}/${heed_path}")
    file(MAKE_DIRECTORY "${heed_host_headers}/include" "${heed_host_headers}/share")
    file(CREATE_LINK "/usr/${heed_path}" "${heed_host_headers}/${heed_path}" SYMBOLIC)
  endif()
endforeach()

set(CMAKE_FIND_ROOT_PATH /usr/${heed_cross}-linux-gnu "${heed_host_headers}")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
