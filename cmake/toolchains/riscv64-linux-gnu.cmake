# 64-bit RISC-V, a processor for which heed brings its own vectors: there is no xsimd to be found.
#   apt-get install g++-riscv64-linux-gnu qemu-user
set(heed_cross riscv64)
set(heed_host_packages include/catch2 include/eigen3 share/eigen3)
include("${CMAKE_CURRENT_LIST_DIR}/debian-cross.cmake")
