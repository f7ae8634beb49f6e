/// What a program allocates. support/allocations.cpp, which is part of every test executable, counts it.
#pragma once

#include <atomic>

namespace support {

extern std::atomic<long> allocations;

/// How often a call allocates.
template <class Call>
long allocations_of(const Call& call) {
  const long before = allocations;
  call();
  return allocations - before;
}

}  // namespace support
