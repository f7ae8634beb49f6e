// What heed::openmp adds: a program compiled with OpenMP.
#include <heed/core/executor.hpp>

#ifndef _OPENMP
#error "heed::openmp does not compile with OpenMP"
#endif

int main() { return heed::openmp(2).concurrency == 2 ? 0 : 1; }
