/// What a call says that must refuse its arguments.
#pragma once

#include <heed/core/error.hpp>

#include <string>

namespace support {

template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const heed::invalid_argument& error) {
    return error.what();
  }
  return "no exception";
}

}  // namespace support
