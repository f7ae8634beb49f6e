/// What a call says when it refuses its arguments.
#pragma once

#include "support/catch.hpp"

#include <heed/core/error.hpp>
#include <heed/core/view.hpp>

#include <string>
#include <vector>

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

/// The call must throw heed::invalid_argument, name `operation`, say what it expected and got, and all of `parts`.
template <class Call>
void check_refusal(const char* operation, const std::vector<std::string>& parts, const Call& call) {
  const std::string said = message_of(call);
  std::string beginning = "heed::";
  beginning.append(operation).append(": ");
  CAPTURE(said);
  CHECK(said.rfind(beginning, 0) == 0);
  CHECK(said.find("expected") != std::string::npos);
  CHECK(said.find("got") != std::string::npos);
  for (const std::string& part : parts) {
    CAPTURE(part);
    CHECK(said.find(part) != std::string::npos);
  }
}

/// The data of a tensor as if it had other extents, for calls that must not look at it.
template <class T, int Rank>
heed::view<T, Rank> with_extents(const heed::view<T, Rank>& t, const heed::index_t (&extents)[Rank]) {
  return {t.data(), extents};
}

}  // namespace support
