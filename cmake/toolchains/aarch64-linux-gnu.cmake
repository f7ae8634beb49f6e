# 64-bit ARM:
#   apt-get install g++-aarch64-linux-gnu qemu-user
set(heed_cross aarch64)
set(heed_host_packages include/xsimd include/catch2 include/eigen3 share/eigen3)
include("${CMAKE_CURRENT_LIST_DIR}/debian-cross.cmake")
