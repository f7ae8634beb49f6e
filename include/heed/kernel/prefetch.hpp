/// Calls memory that is needed next into the cache, a little at a time, while something else is computed.
#pragma once

#include <heed/core/scratch.hpp>

#include <algorithm>
#include <cstddef>

HEED_ARCH_BEGIN
namespace detail {

/// Calls a row into the first-level cache, to be read (0) or written (1).
template <int Write, class S>
HEED_INLINE void prefetch_row(const S* row, index_t features) noexcept {
  constexpr index_t step = cache_line / index_t(sizeof(S));
  for (index_t i = 0; i < features; i += step) __builtin_prefetch(row + i, Write, 3);
}

/// Rows that are read next. A burst of requests would hold up the reads of the work at hand, so they are issued along
/// with it.
class prefetcher {
 public:
  /// Adds `rows` rows of `features` elements; what is too much is left to the processor.
  template <class S>
  HEED_NOINLINE void add(const S* first, index_t stride, index_t rows, index_t features) noexcept {
    if (used_ == most_ranges) return;
    // Rows that follow each other are one long one.
    if (stride == features && rows > 1) {
      features *= rows;
      rows = 1;
    }
    const index_t lines = (features * index_t(sizeof(S)) + cache_line - 1) / cache_line;
    ranges_[used_++] = {reinterpret_cast<const char*>(first), stride * index_t(sizeof(S)), rows, lines};
    lines_ += rows * lines;
  }

  /// What was added will be issued in the course of `work` units.
  void spread(index_t work) noexcept { per_unit_ = (lines_ * one + work - 1) / work; }

  /// Whether there is nothing to issue.
  HEED_INLINE bool idle() const noexcept { return current_ == used_; }

  /// Issues what goes with `units` units of work.
  HEED_INLINE void issue(index_t units) noexcept {
    if (idle()) return;
    due_ += units * per_unit_;
    issue_lines(due_ / one);
    due_ %= one;
  }

  /// Issues what is left.
  void finish() noexcept { issue_lines(lines_); }

 private:
  struct range {
    const char* row;
    std::ptrdiff_t stride;
    index_t rows, lines;
  };
  static constexpr index_t one = 256;
  static constexpr int most_ranges = 32;

  HEED_NOINLINE void issue_lines(index_t n) noexcept {
    while (n > 0 && current_ != used_) {
      range& r = ranges_[current_];
      if (r.rows == 0) {
        ++current_;
        continue;
      }
      const index_t last = std::min(r.lines, line_ + n);
      n -= last - line_;
      for (; line_ < last; ++line_) __builtin_prefetch(r.row + line_ * cache_line, 0, 2);
      if (line_ == r.lines) {
        line_ = 0;
        r.row += r.stride;
        if (--r.rows == 0) ++current_;
      }
    }
  }

  range ranges_[most_ranges];
  index_t lines_ = 0, line_ = 0, per_unit_ = 0, due_ = 0;
  int used_ = 0, current_ = 0;
};

}  // namespace detail
HEED_ARCH_END
