/// Neighborhood masks on token grids of rank 1, 2 or 3: windows that shift at the borders instead of shrinking.
#pragma once

#include <heed/config.hpp>
#include <heed/core/error.hpp>
#include <heed/mod/position.hpp>
#include <heed/mod/scalar.hpp>

#include <initializer_list>
#include <span>

HEED_ARCH_BEGIN

/// One axis of a grid of tokens.
struct neighborhood_axis {
  int length;           ///< tokens
  int window;           ///< keys that a query sees, at least 2
  int stride = 1;       ///< 1..window; queries that share one window. stride = window: separate blocks
  int dilation = 1;     ///< distance of neighboring keys, at least 1; window * dilation <= length
  bool causal = false;  ///< the window ends at the query
};

namespace detail {

/// `prefix` goes before the names of an axis' fields.
HEED_COLD inline void check_neighborhood_axis(const checker& check, const neighborhood_axis& a, const char* prefix) {
  const auto require = [&](bool holds, const char* field, const char* expected, int got) {
    check.require(holds, text("%s%s", prefix, field).c_str(), expected, got);
  };
  require(a.window >= 2, "window", "at least 2", a.window);
  require(a.stride >= 1 && a.stride <= a.window, "stride", "1..window", a.stride);
  require(a.dilation >= 1, "dilation", "at least 1", a.dilation);
  require(index_t(a.window) * a.dilation <= a.length, "length", "at least window * dilation", a.length);
}

/// The index maths of one axis, by default of a single token. Tokens of equal residue modulo the dilation form a group;
/// coordinates below count within the group, whose length is `size`.
class neighborhood_line {
 public:
  struct span {
    int begin, end;
  };

  neighborhood_line() noexcept = default;
  explicit neighborhood_line(const neighborhood_axis& axis) noexcept : axis_(axis) {}

  int length() const noexcept { return axis_.length; }
  int dilation() const noexcept { return axis_.dilation; }
  int size(int group) const noexcept { return (axis_.length - group + axis_.dilation - 1) / axis_.dilation; }

  /// The keys that query i sees. Neither end decreases with i, and those of consecutive queries leave no gap.
  span keys_of(int i, int size) const noexcept {
    const int first = i / axis_.stride * axis_.stride;
    if (axis_.causal) {
      const int leader = min(first + axis_.stride - 1, size - 1);
      return {max(leader - (axis_.window - 1), 0), i + 1};
    }
    const int leader = min(first + axis_.stride / 2, size - 1);
    const int begin = min(max(leader - axis_.window / 2, 0), size - axis_.window);
    return {begin, begin + axis_.window};
  }

  /// The queries that see key j: keys_of solved for i.
  HEED_INLINE span queries_of(int j, int size) const noexcept {
    const int w = axis_.window, st = axis_.stride;
    if (axis_.causal) return {j, j + w >= size ? size : min(((j + w - st) / st + 1) * st, size)};
    const int middle = w / 2 - st / 2;
    const int first = j - w + 1;
    const int begin = first <= 0 ? 0 : (first + middle + st - 1) / st * st;
    const int end = j >= size - w ? size : ((j + middle) / st + 1) * st;
    return {begin, min(end, size)};
  }

  /// The coordinates within a group of the tokens [begin, end).
  span in_group(span tokens, int group) const noexcept {
    const int d = axis_.dilation;
    return {-floor_div(group - tokens.begin, d), -floor_div(group - tokens.end, d)};
  }

  /// Exact for ranges of tokens, neither empty.
  tile_class classify(span queries, span keys) const noexcept {
    bool some = false, all = false;
    int groups = 0;
    for (int g = 0; g < axis_.dilation; ++g) {
      const span i = in_group(queries, g), j = in_group(keys, g);
      const bool has_queries = i.begin < i.end, has_keys = j.begin < j.end;
      groups += has_queries || has_keys;
      if (!has_queries || !has_keys) continue;
      const span first = keys_of(i.begin, size(g)), last = keys_of(i.end - 1, size(g));
      some |= j.begin < last.end && first.begin < j.end;
      all = last.begin <= j.begin && j.end <= first.end;
    }
    return class_of(!some, all && groups == 1);
  }

  /// The smallest range of tokens that holds all keys of a range of queries, not empty.
  span hull(span queries) const noexcept {
    span found = {axis_.length, 0};
    for (int g = 0; g < axis_.dilation; ++g) {
      const span i = in_group(queries, g);
      if (i.begin >= i.end) continue;
      found.begin = min(found.begin, keys_of(i.begin, size(g)).begin * axis_.dilation + g);
      found.end = max(found.end, (keys_of(i.end - 1, size(g)).end - 1) * axis_.dilation + g + 1);
    }
    return found;
  }

 private:
  neighborhood_axis axis_{1, 1};
};

}  // namespace detail

/// The axes of a grid of tokens, slowest first; copied. Made from a list of them in braces, from a single axis, or from
/// a contiguous container.
///
///     heed::neighborhood_axes image = {{.length = height, .window = 7}, {.length = width, .window = 7}};
class neighborhood_axes {
 public:
  neighborhood_axes(const neighborhood_axis& axis) noexcept : neighborhood_axes(std::span(&axis, 1)) {}
  neighborhood_axes(std::initializer_list<neighborhood_axis> axes) noexcept
      : neighborhood_axes(std::span(axes.begin(), axes.size())) {}
  neighborhood_axes(std::span<const neighborhood_axis> axes) noexcept : rank_(static_cast<index_t>(axes.size())) {
    for (index_t i = 0; i < rank_ && i < most; ++i) axes_[i] = axes[static_cast<std::size_t>(i)];
  }

  /// What was given; operators take 1 to 3.
  index_t rank() const noexcept { return rank_; }
  const neighborhood_axis& operator[](index_t axis) const noexcept { return axes_[axis]; }

 private:
  static constexpr index_t most = 3;

  neighborhood_axis axes_[most] = {};
  index_t rank_;
};

/// Neighborhood attention: each query of a grid sees a window of keys around it, full even at the borders.
///     visible = on every axis: same residue modulo dilation, and s(i) <= j < e(i)
/// with i, j the coordinates div dilation, L the length of the group of their residue, and
///     not causal: leader = min((i div stride) * stride + stride div 2, L - 1)
///                 s = clamp(leader - window div 2, 0, L - window),  e = s + window
///     causal:     leader = min((i div stride) * stride + stride - 1, L - 1)
///                 s = max(leader - (window - 1), 0),  e = i + 1
/// Positions are row-major, last axis fastest; positions outside the grid see nothing and are seen by nobody.
///
///     heed::neighborhood<2> image({{.length = height, .window = 7}, {.length = width, .window = 7}});
///
/// classify() and keys() are exact for any ranges of positions: they cut them into boxes of the grid. Cost: a few dozen
/// integer operations, times the dilation.
///
/// Throws heed::invalid_argument: window < 2, stride not in 1..window, dilation < 1, window * dilation > length, more
/// tokens than int can count.
///
/// Paper: Hassani et al., Faster Neighborhood Attention (2024); Generalized Neighborhood Attention (2025) for the
/// stride.
template <int Rank>
class neighborhood : public mask_base {
  static_assert(Rank >= 1 && Rank <= 3, "heed::neighborhood: rank must be 1..3");

 public:
  explicit neighborhood(const neighborhood_axis& axis)
    requires(Rank == 1)
  {
    assign(&axis);
  }
  explicit neighborhood(const neighborhood_axis (&axes)[Rank]) { assign(axes); }

  template <class Index>
  HEED_INLINE auto operator()(const basic_position<Index>& at) const noexcept {
    if (at.kv < 0 || at.kv >= tokens_) return detail::everywhere(at.q, false);
    // The remainders of q by the volumes of the inner axes differ by one coordinate times its pitch.
    const Index q = max(at.q, -1);
    Index inner(0);
    auto visible = detail::everywhere(at.q, true);
    for (int axis = Rank - 1; axis > 0; --axis) {
      const Index outer = floor_mod(q, pitch_[axis - 1]);
      visible = detail::both(visible, sees(axis, Index(outer - inner), at.kv));
      inner = outer;
    }
    return detail::both(visible, sees(0, Index(q - inner), at.kv));
  }

  tile_class classify(int, int, int q0, int q1, int k0, int k1) const noexcept {
    const span q = clip(q0, q1), kv = clip(k0, k1);
    if (q.begin >= q.end || kv.begin >= kv.end) return tile_class::empty;
    bool some = false, all = q.end - q.begin == index_t(q1) - q0 && kv.end - kv.begin == index_t(k1) - k0;
    const box_list query_boxes(*this, q), key_boxes(*this, kv);
    for (int x = 0; x < query_boxes.count; ++x)
      for (int y = 0; y < key_boxes.count; ++y) {
        const tile_class boxes = classify(query_boxes.boxes[x], key_boxes.boxes[y]);
        some |= boxes != tile_class::empty;
        all &= boxes == tile_class::full;
      }
    return detail::class_of(!some, all);
  }

  key_range keys(int, int, int q0, int q1) const noexcept {
    const span q = clip(q0, q1);
    if (q.begin >= q.end) return {0, 0};
    key_range found = {0, 0};
    const box_list boxes(*this, q);
    for (int x = 0; x < boxes.count; ++x) {
      int first = 0, last = 0;
      for (int axis = 0; axis < Rank; ++axis) {
        const span seen = line_[axis].hull(boxes.boxes[x].side[axis]);
        first += seen.begin * pitch_[axis];
        last += (seen.end - 1) * pitch_[axis];
      }
      found = detail::hull(found, {first, last + 1});
    }
    return found;
  }

 private:
  using span = detail::neighborhood_line::span;

  struct box {
    span side[Rank];
  };

  /// A range of positions cut into boxes: parts of rows at its ends, whole rows and planes between them.
  struct box_list {
    box boxes[2 * Rank - 1];
    int count = 0;

    box_list(const neighborhood& grid, span positions) noexcept { cut(grid, 0, box{}, positions); }

    void cut(const neighborhood& grid, int axis, box outer, span rest) noexcept {
      if (axis == Rank - 1) {
        outer.side[axis] = rest;
        boxes[count++] = outer;
        return;
      }
      const int pitch = grid.pitch_[axis];
      span whole = {rest.begin / pitch, rest.end / pitch};
      const int head = rest.begin % pitch, tail = rest.end % pitch;
      if (head > 0) {
        outer.side[axis] = {whole.begin, whole.begin + 1};
        const bool ends_here = whole.begin == whole.end;
        cut(grid, axis + 1, outer, {head, ends_here ? tail : pitch});
        if (ends_here) return;
        ++whole.begin;
      }
      if (whole.begin < whole.end) {
        outer.side[axis] = whole;
        for (int inner = axis + 1; inner < Rank; ++inner) outer.side[inner] = {0, grid.line_[inner].length()};
        boxes[count++] = outer;
      }
      if (tail > 0) {
        outer.side[axis] = {whole.end, whole.end + 1};
        cut(grid, axis + 1, outer, {0, tail});
      }
    }
  };

  void assign(const neighborhood_axis* axes) {
    const detail::checker check("neighborhood");
    index_t tokens = 1;
    for (int axis = Rank - 1; axis >= 0; --axis) {
      const neighborhood_axis& a = axes[axis];
      detail::check_neighborhood_axis(check, a, "");
      line_[axis] = detail::neighborhood_line(a);
      pitch_[axis] = static_cast<int>(tokens);
      tokens *= a.length;
      check.require(tokens < INT_MAX, "length", "a grid of less than 2^31 - 1 tokens", tokens);
    }
    tokens_ = static_cast<int>(tokens);
  }

  /// Whether a query sees the key on one axis; `scaled` is the query's coordinate times the pitch of the axis.
  template <class Index>
  HEED_INLINE auto sees(int axis, const Index& scaled, int kv) const noexcept {
    const detail::neighborhood_line& line = line_[axis];
    const int pitch = pitch_[axis], d = line.dilation();
    const int key = kv / pitch % line.length(), group = d == 1 ? 0 : key % d;
    const span queries = line.queries_of(d == 1 ? key : key / d, line.size(group));
    const auto in_window =
        detail::both(scaled >= (queries.begin * d + group) * pitch, scaled <= ((queries.end - 1) * d + group) * pitch);
    if (d == 1) return in_window;
    return detail::both(in_window, floor_mod(scaled, d * pitch) == group * pitch);
  }

  tile_class classify(const box& queries, const box& keys) const noexcept {
    bool all = true;
    for (int axis = 0; axis < Rank; ++axis) {
      const tile_class c = line_[axis].classify(queries.side[axis], keys.side[axis]);
      if (c == tile_class::empty) return c;
      all &= c == tile_class::full;
    }
    return detail::class_of(false, all);
  }

  span clip(int begin, int end) const noexcept { return {max(begin, 0), min(end, tokens_)}; }

  detail::neighborhood_line line_[Rank];
  int pitch_[Rank] = {};
  int tokens_ = 0;
};

neighborhood(const neighborhood_axis&) -> neighborhood<1>;
template <int Rank>
neighborhood(const neighborhood_axis (&)[Rank]) -> neighborhood<Rank>;

HEED_ARCH_END
