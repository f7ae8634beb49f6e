/// What both passes of window attention are made of: the rows of a window, its bias, and how a call is cut.
#pragma once

#include <heed/kernel/key_block.hpp>
#include <heed/kernel/window_grid.hpp>

#include <algorithm>
#include <limits>

HEED_ARCH_BEGIN
namespace detail {

/// The inputs of a call; all of them checked.
template <class S>
struct swin_call {
  view<const S, 4> q, k, v;  // [B,H,N,D], [B,G,N,D], [B,G,N,E]
  window_grid grid;
  token_grid window;              // as the table counts it
  view<const S, 2> table;         // [offset,H] or empty
  view<const S, 2> k_pad, v_pad;  // [G,D], [G,E], or empty: missing places have no keys
  double scale;

  index_t batch() const noexcept { return q.extent(0); }
  index_t heads() const noexcept { return q.extent(1); }
  index_t kv_heads() const noexcept { return k.extent(1); }
  index_t heads_of_kv() const noexcept { return heads() / std::max<index_t>(1, kv_heads()); }
  index_t features() const noexcept { return q.extent(3); }
  index_t value_features() const noexcept { return v.extent(3); }
  bool pads() const noexcept { return static_cast<bool>(k_pad); }

  /// Queries are the tokens of a window, keys those and, if missing places have them, all places.
  index_t keys_of(int of_class) const noexcept { return pads() ? grid.places() : grid.tokens_of(of_class); }
  bool biased(int of_class) const noexcept {
    const window_places y = grid.places_y(of_class), x = grid.places_x(of_class);
    return static_cast<bool>(table) || y.cut < y.size || x.cut < x.size;
  }
  /// The row of the table for a query and a key of a window, both (y, x).
  index_t offset(index_t qy, index_t qx, index_t ky, index_t kx) const noexcept {
    return (qy - ky + window.height - 1) * (2 * window.width - 1) + qx - kx + window.width - 1;
  }
};

/// A number for every pair of a class of windows, in tiles as those of a window's queries: [tile][key][lane].
template <class T, class A>
struct window_pairs {
  using shape = tile_shape<T, A>;
  index_t queries, keys;

  template <class S>
  window_pairs(const swin_call<S>& call, int of_class) noexcept
      : queries(call.grid.tokens_of(of_class)), keys(call.keys_of(of_class)) {}

  index_t tiles() const noexcept { return (queries + shape::queries - 1) / shape::queries; }
  index_t size() const noexcept { return tiles() * keys * shape::queries; }
  index_t at(index_t tile, index_t key) const noexcept { return (tile * keys + key) * shape::queries; }

  /// f(index of the pair, its row of the table, or -1 if the cuts of the window are between the two)
  template <class S, class F>
  void for_each(const swin_call<S>& call, int of_class, const F& f) const {
    const window_places rows = call.grid.places_y(of_class), columns = call.grid.places_x(of_class);
    const bool all = call.pads();
    index_t query = 0;
    for (index_t i = 0; i < rows.tokens(); ++i)
      for (index_t j = 0; j < columns.tokens(); ++j, ++query) {
        const index_t qy = rows.place(i), qx = columns.place(j);
        index_t pair = at(query / shape::queries, 0) + query % shape::queries;
        for (index_t m = 0; m < (all ? rows.size : rows.tokens()); ++m) {
          const index_t ky = all ? m : rows.place(m), offset = call.offset(qy, qx, ky, 0);
          const bool seen = rows.sees(qy, ky);
          const auto visit = [&](index_t begin, index_t end) {
            for (index_t kx = begin; kx < end; ++kx, pair += shape::queries)
              f(pair, seen && columns.sees(qx, kx) ? offset - kx : -1);
          };
          visit(0, all ? columns.size : columns.begin_missing);
          if (!all) visit(columns.end_missing, columns.size);
        }
      }
  }
};

/// Biases of all classes that have one, for all heads: what the table gives, and -inf between places that do not see
/// each other.
template <class T, class A>
class window_biases {
 public:
  template <class S>
  explicit window_biases(const swin_call<S>& call) noexcept : own_heads_(call.table ? call.heads() : 1) {
    for (int c = 0; c < window_grid::classes; ++c) {
      first_[c] = total_;
      has_[c] = call.biased(c) && call.grid.windows_of(c) > 0;
      if (has_[c]) total_ += window_pairs<T, A>(call, c).size();
    }
  }

  index_t bytes() const noexcept { return round_up(own_heads_ * total_ * index_t(sizeof(T)), cache_line); }
  index_t tasks() const noexcept { return own_heads_ * window_grid::classes; }
  void place(std::byte* memory) noexcept { data_ = reinterpret_cast<T*>(memory); }

  /// Of tile 0, or null.
  const T* of(int of_class, index_t head) const noexcept { return has_[of_class] ? at(of_class, head) : nullptr; }
  /// Numbers of one head, and where those of a class start.
  index_t size() const noexcept { return total_; }
  index_t first(int of_class) const noexcept { return first_[of_class]; }
  bool has(int of_class) const noexcept { return has_[of_class]; }

  template <class S>
  void expand(const swin_call<S>& call, index_t task) const noexcept {
    const int c = static_cast<int>(task % window_grid::classes);
    const index_t head = task / window_grid::classes;
    if (!has_[c]) return;
    const window_pairs<T, A> pairs(call, c);
    T* const to = at(c, head);
    std::fill_n(to, pairs.size(), T(0));
    pairs.for_each(call, c, [&](index_t pair, index_t offset) {
      to[pair] = offset < 0   ? -std::numeric_limits<T>::infinity()
                 : call.table ? static_cast<T>(call.table(offset, head))
                              : T(0);
    });
  }

 private:
  T* at(int of_class, index_t head) const noexcept {
    return data_ + (own_heads_ == 1 ? 0 : head) * total_ + first_[of_class];
  }

  index_t own_heads_, total_ = 0;
  index_t first_[window_grid::classes];
  bool has_[window_grid::classes];
  T* data_ = nullptr;
};

/// One window: its tokens are those of its class, `first` added to each.
struct window_tokens {
  int of_class;
  index_t first;
  const index_t* queries;
  const index_t* keys;  // or -1 for missing places
};

/// The tokens of all windows. Windows of a class are alike but for where they begin.
class window_lists {
 public:
  template <class S>
  explicit window_lists(const swin_call<S>& call) noexcept : own_keys_(call.pads()) {
    for (int c = 0; c < window_grid::classes; ++c) {
      first_[c] = total_;
      if (call.grid.windows_of(c) > 0) total_ += (own_keys_ ? 2 : 1) * call.grid.places();
    }
  }

  index_t bytes() const noexcept { return round_up(total_ * index_t(sizeof(index_t)), cache_line); }

  template <class S>
  void place(std::byte* memory, const swin_call<S>& call) noexcept {
    data_ = reinterpret_cast<index_t*>(memory);
    places_ = call.grid.places();
    for (int c = 0; c < window_grid::classes; ++c) {
      if (call.grid.windows_of(c) == 0) continue;
      call.grid.list(c, false, data_ + first_[c]);
      if (own_keys_) call.grid.list(c, true, data_ + first_[c] + places_);
    }
  }

  window_tokens at(const window_grid& grid, index_t y, index_t x) const noexcept {
    const int c = grid.class_of(y, x);
    const index_t* const queries = data_ + first_[c];
    return {c, grid.first(y, x), queries, own_keys_ ? queries + places_ : queries};
  }

 private:
  bool own_keys_;
  index_t total_ = 0, places_ = 0;
  index_t first_[window_grid::classes];
  index_t* data_ = nullptr;
};

/// Rows of one head of a window, by tokens of its lists.
template <class S>
listed_rows<S> rows_of(const view<S, 4>& tensor, index_t b, index_t h, const window_tokens& window,
                       const index_t* tokens) noexcept {
  return {&tensor(b, h, 0, 0) + window.first * tensor.stride(2), tensor.stride(2), tokens};
}

/// Keys and values of one head of a window, tokens and missing places.
template <class S>
struct window_source {
  const S* keys;
  index_t key_stride;
  const S* values;
  index_t value_stride;
  const S* missing_key;
  const S* missing_value;
  const index_t* tokens;  // or -1

  const S* key(index_t j) const noexcept { return tokens[j] < 0 ? missing_key : keys + tokens[j] * key_stride; }
  const S* value(index_t j) const noexcept { return tokens[j] < 0 ? missing_value : values + tokens[j] * value_stride; }

  /// Keys [first, first + some) and their values, in lists of the caller's.
  pointed_source<S> list(index_t first, int some, const S** keys_at, const S** values_at) const noexcept {
    for (int i = 0; i < some; ++i) keys_at[i] = key(first + i), values_at[i] = value(first + i);
    return {keys_at, values_at, some};
  }
};

template <class S>
window_source<S> source_of(const swin_call<S>& call, index_t b, index_t g, const window_tokens& window) noexcept {
  return {&call.k(b, g, 0, 0) + window.first * call.k.stride(2),
          call.k.stride(2),
          &call.v(b, g, 0, 0) + window.first * call.v.stride(2),
          call.v.stride(2),
          call.pads() ? &call.k_pad(g, 0) : nullptr,
          call.pads() ? &call.v_pad(g, 0) : nullptr,
          window.keys};
}

}  // namespace detail
HEED_ARCH_END
