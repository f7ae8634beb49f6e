/// Checks of tokens that form an image.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/token_grid.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// The grid of `count` tokens: what was given, or one line.
HEED_COLD inline token_grid checked_grid(const checker& check, const setting<token_grid>& given, const char* name,
                                         index_t count, const char* meaning) {
  const token_grid grid = given.or_default({1, count});
  check.require(grid.height >= 1, text("%s.height", name).c_str(), "at least 1", grid.height);
  check.require(grid.width >= 1, text("%s.width", name).c_str(), "at least 1", grid.width);
  index_t tokens = 0;
  if (__builtin_mul_overflow(grid.height, grid.width, &tokens) || tokens != count) [[unlikely]]
    check.fail_with(
        name, text("a grid of %lld tokens (%s)", static_cast<long long>(count), meaning).c_str(),
        text("%lld x %lld", static_cast<long long>(grid.height), static_cast<long long>(grid.width)).c_str());
  return grid;
}

}  // namespace detail
HEED_ARCH_END
