/// Windows of a grid of tokens: how an axis is cut, and which places of a window hold tokens that see each other.
#pragma once

#include <heed/core/token_grid.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// Places [0, begin_missing) and [end_missing, size) of a window hold tokens, those between have none. Places before
/// and from `cut` on come from opposite ends of the axis and do not see each other; cut = size: all of them do.
struct window_places {
  index_t size, begin_missing, end_missing, cut;

  index_t tokens() const noexcept { return size - (end_missing - begin_missing); }
  /// Tokens of each of the two runs of neighbors.
  index_t run(int number) const noexcept { return number == 0 ? begin_missing : size - end_missing; }
  /// The place of token number i of the window.
  index_t place(index_t i) const noexcept { return i < begin_missing ? i : i + end_missing - begin_missing; }
  bool sees(index_t a, index_t b) const noexcept { return (a < cut) == (b < cut); }
};

/// One axis: `length` tokens, rolled by -shift, in windows of `size` places. Only the last two windows can differ from
/// the others.
class window_axis {
 public:
  window_axis(index_t length, index_t size, index_t shift) noexcept
      : length_(length),
        size_(std::max<index_t>(1, std::min(length, size))),
        shift_(size < length ? shift : 0),
        count_((length + size_ - 1) / size_) {}

  index_t count() const noexcept { return count_; }
  index_t size() const noexcept { return size_; }

  /// Kinds of windows. Those of one kind have equal places.
  static constexpr int kinds = 3;
  int kind(index_t window) const noexcept {
    if (window == count_ - 1 && (shift_ > 0 || missing() > 0)) return 2;
    return window == count_ - 2 && missing() + shift_ > size_ ? 1 : 0;
  }
  index_t windows_of(int kind) const noexcept {
    const index_t last = this->kind(count_ - 1) == 2 ? 1 : 0;
    const index_t before = count_ > 1 && this->kind(count_ - 2) == 1 ? 1 : 0;
    return kind == 2 ? last : kind == 1 ? before : count_ - last - before;
  }
  /// The first window of a kind, and how far from its tokens those of another one of the kind are.
  index_t first_of(int kind) const noexcept { return kind == 0 ? 0 : kind == 1 ? count_ - 2 : count_ - 1; }
  index_t offset(index_t window) const noexcept { return (window - first_of(kind(window))) * size_; }
  window_places places(int kind) const noexcept {
    // Missing places follow the last token; the shifted axis goes on with its first tokens.
    const index_t begin = length_ - shift_ - (count_ - (kind == 2 ? 1 : 2)) * size_;
    if (kind == 0) return {size_, size_, size_, size_};
    if (kind == 1) return {size_, begin, size_, size_};
    return {size_, std::max<index_t>(0, begin), size_ - shift_, shift_ > 0 ? size_ - shift_ : size_};
  }
  /// The token at a place that has one.
  index_t token(index_t window, index_t place) const noexcept {
    const index_t at = window * size_ + place + shift_, padded = count_ * size_;
    return at < padded ? at : at - padded;
  }

 private:
  index_t missing() const noexcept { return count_ * size_ - length_; }

  index_t length_, size_, shift_, count_;
};

/// Both axes. Windows whose axes are of one kind each form a class.
struct window_grid {
  window_axis y, x;
  index_t width;  // tokens of a row

  static constexpr int classes = window_axis::kinds * window_axis::kinds;
  int class_of(index_t window_y, index_t window_x) const noexcept {
    return y.kind(window_y) * window_axis::kinds + x.kind(window_x);
  }
  window_places places_y(int of_class) const noexcept { return y.places(of_class / window_axis::kinds); }
  window_places places_x(int of_class) const noexcept { return x.places(of_class % window_axis::kinds); }
  index_t windows_of(int of_class) const noexcept {
    return y.windows_of(of_class / window_axis::kinds) * x.windows_of(of_class % window_axis::kinds);
  }
  /// Of a window.
  index_t places() const noexcept { return y.size() * x.size(); }
  index_t tokens_of(int of_class) const noexcept { return places_y(of_class).tokens() * places_x(of_class).tokens(); }

  /// What the tokens of a window have in addition to those of the first window of its class.
  index_t first(index_t window_y, index_t window_x) const noexcept {
    return y.offset(window_y) * width + x.offset(window_x);
  }

  /// The tokens of the first window of a class, in order of their places. `missing`: with -1 for each place that has
  /// none. Returns how many.
  index_t list(int of_class, bool missing, index_t* tokens) const noexcept {
    const window_places rows = places_y(of_class), columns = places_x(of_class);
    const index_t window_y = y.first_of(of_class / window_axis::kinds);
    const index_t window_x = x.first_of(of_class % window_axis::kinds);
    index_t count = 0;
    const auto missing_places = [&](index_t some) {
      if (missing) std::fill_n(tokens + count, some, index_t(-1)), count += some;
    };
    for (index_t i = 0; i < rows.size; ++i) {
      if (i >= rows.begin_missing && i < rows.end_missing) {
        missing_places(columns.size);
        continue;
      }
      const index_t row = y.token(window_y, i) * width;
      for (index_t j = 0; j < columns.begin_missing; ++j) tokens[count++] = row + x.token(window_x, j);
      missing_places(columns.end_missing - columns.begin_missing);
      for (index_t j = columns.end_missing; j < columns.size; ++j) tokens[count++] = row + x.token(window_x, j);
    }
    return count;
  }
};

}  // namespace detail
HEED_ARCH_END
