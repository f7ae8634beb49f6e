# Debian's cross compiler for 64-bit ARM, its programs run under qemu-user:
#   apt-get install g++-aarch64-linux-gnu qemu-user
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR "qemu-aarch64;-L;/usr/aarch64-linux-gnu")

# Header-only packages of the host serve every architecture, the rest of /usr/include does not. So links to those packages
# alone are what the find commands see.
set(heed_host_headers "${CMAKE_BINARY_DIR}/host-headers")
foreach(heed_path IN ITEMS include/xsimd include/catch2 include/eigen3 share/eigen3)
  if(IS_DIRECTORY "/usr/${heed_path}" AND NOT EXISTS "${heed_host_headers}/${heed_path}")
    file(MAKE_DIRECTORY "${heed_host_headers}/include" "${heed_host_headers}/share")
    file(CREATE_LINK "/usr/${heed_path}" "${heed_host_headers}/${heed_path}" SYMBOLIC)
  endif()
endforeach()

set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu "${heed_host_headers}")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
