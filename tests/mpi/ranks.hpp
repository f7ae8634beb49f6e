/// Transports for tests under mpirun. None of them waits forever: a test that would hang fails instead.
#pragma once

#include "support/catch.hpp"

#include <heed/interop/mpi.hpp>

#include <string>

namespace mpi {

inline heed::mpi_transport_options patient(heed::mpi_transport_options options = {}) {
  options.on_failure = heed::mpi_failure::rethrow;
  if (options.patience == 0) options.patience = 20;
  return options;
}

/// What the exception of a call says.
template <class Call>
std::string said_by(const Call& call) {
  try {
    call();
  } catch (const heed::transport_error& error) {
    return error.what();
  }
  return "no exception";
}

template <class T>
heed::view<std::byte, 1> bytes_of(T* values, heed::index_t count) {
  return {reinterpret_cast<std::byte*>(values), {count * static_cast<heed::index_t>(sizeof(T))}};
}

}  // namespace mpi
