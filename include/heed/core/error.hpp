/// The error type and the checks that entry points run before they write anything.
#pragma once

#include <heed/config.hpp>
#include <heed/core/overlap.hpp>
#include <heed/core/view.hpp>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

HEED_BEGIN

/// Thrown by every entry point for input it cannot work on, before the first write.
/// what() names the operator, the argument, what was expected and what was given.
class invalid_argument : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

HEED_END

HEED_ARCH_BEGIN
namespace detail {

/// A short formatted text. Messages are built with it because functions of std::string are symbols that translation
/// units for different machines would share.
class text {
 public:
  [[gnu::format(printf, 2, 3)]] explicit text(const char* format, ...) noexcept {
    std::va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(characters_, sizeof characters_, format, arguments);
    va_end(arguments);
  }
  const char* c_str() const noexcept { return characters_; }

 private:
  char characters_[320];
};

[[noreturn]] HEED_NOINLINE inline void fail(const char* message) {
#if HEED_EXCEPTIONS
  throw invalid_argument(message);
#else
  std::fprintf(stderr, "%s\n", message);
  std::abort();
#endif
}

inline text show(bool value) { return text("%s", value ? "true" : "false"); }
inline text show(const char* value) { return text("%s", value); }
inline text show(index_t value) { return text("%lld", static_cast<long long>(value)); }
inline text show(int value) { return text("%d", value); }
inline text show(double value) { return text("%g", value); }

/// The checks of one entry point: all messages read "heed::<op>: <argument>: expected <..>, got <..>".
class checker {
 public:
  explicit constexpr checker(const char* op) noexcept : op_(op) {}

  template <class Got>
  void require(bool holds, const char* argument, const char* expected, Got got) const {
    if (!holds) [[unlikely]]
      fail_with(argument, expected, show(got).c_str());
  }

  /// Axis `axis` of a tensor must have the extent that `meaning` (such as "M, the extent of k") asks for.
  template <class View>
  void extent(const View& tensor, const char* argument, int axis, index_t expected, const char* meaning) const {
    if (tensor.extent(axis) != expected) [[unlikely]]
      fail_with(text("%s.extent(%d)", argument, axis).c_str(),
                text("%lld (%s)", static_cast<long long>(expected), meaning).c_str(),
                show(tensor.extent(axis)).c_str());
  }

  /// Extents not negative, data present unless there is nothing to read, last axis contiguous.
  template <class T, int Rank>
  void tensor(const view<T, Rank>& t, const char* argument) const {
    for (int axis = 0; axis < Rank; ++axis)
      if (t.extent(axis) < 0) [[unlikely]]
        fail_with(text("%s.extent(%d)", argument, axis).c_str(), "at least 0", show(t.extent(axis)).c_str());
    if (is_empty(t)) return;
    require(t.data() != nullptr, argument, "data", "a null pointer");
    require(t.stride(Rank - 1) == 1 || t.extent(Rank - 1) == 1, argument, "a last axis of stride 1",
            t.stride(Rank - 1));
  }

  /// An output must not be broadcast, nor overlap itself in any other way (two indices, one element).
  template <class T, int Rank>
  void output(const view<T, Rank>& t, const char* argument) const {
    tensor(t, argument);
    if (is_empty(t)) return;
    for (int axis = 0; axis < Rank; ++axis)
      require(t.stride(axis) != 0 || t.extent(axis) == 1, argument, "no broadcast axis in an output", "stride 0");
    require(distinct_elements(t), argument, "an output whose elements are distinct", "strides that make them overlap");
  }

  /// The elements of an output must not overlap those of another tensor. Tensors interleaved in one buffer (q, k, v and
  /// out side by side in one record per token) do not.
  template <class T, int R1, class U, int R2>
  void no_overlap(const view<T, R1>& output, const char* name, const view<U, R2>& other, const char* other_name) const {
    if (!disjoint(output, other)) [[unlikely]]
      fail_with(name, text("no overlap with %s", other_name).c_str(), "overlapping memory");
  }

  [[noreturn]] HEED_NOINLINE void fail_with(const char* argument, const char* expected, const char* got) const {
    fail(message(argument, expected, got).c_str());
  }

  text message(const char* argument, const char* expected, const char* got) const noexcept {
    return text("heed::%s: %s: expected %s, got %s", op_, argument, expected, got);
  }

 private:
  const char* op_;
};

}  // namespace detail
HEED_ARCH_END
