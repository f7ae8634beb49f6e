/// Option fields that have a default which only the operator can compute.
#pragma once

#include <heed/config.hpp>

HEED_BEGIN

/// A value the caller may leave to the operator: `{}` means "the operator's documented default".
template <class T>
class setting {
 public:
  HEED_INLINE constexpr setting() noexcept = default;
  HEED_INLINE constexpr setting(T value) noexcept : value_(value), given_(true) {}

  HEED_INLINE constexpr bool given() const noexcept { return given_; }
  HEED_INLINE constexpr T or_default(T fallback) const noexcept { return given_ ? value_ : fallback; }

 private:
  T value_{};
  bool given_ = false;
};

HEED_END
