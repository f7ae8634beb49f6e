/// How many shapes a test goes through.
#pragma once

#include <cstdlib>
#include <string_view>

namespace support {

/// True where instructions are dear (emulators, sanitizers): HEED_TEST_GRID=small in the environment. Tests then thin out
/// their grids, keeping each kind of shape (tails, empty, grouped heads) at least once.
inline bool small_grid() {
  const char* grid = std::getenv("HEED_TEST_GRID");
  return grid != nullptr && std::string_view(grid) == "small";
}

}  // namespace support
