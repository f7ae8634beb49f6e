/// A key/value cache of the first tokens and the last ones.
#pragma once

#include <heed/core/setting.hpp>
#include <heed/kernel/row_store.hpp>

#include <algorithm>

HEED_BEGIN

struct ring_sizes {
  index_t batch = 1;
  index_t kv_heads = 1;
  /// First tokens of a sequence, which stay.
  index_t sinks = 0;
  /// Tokens after them, the newest of which stay.
  index_t window = 0;
  index_t features = 0;
  /// Default: features.
  setting<index_t> value_features{};
};

HEED_END

HEED_ARCH_BEGIN
namespace detail {

struct ring_walk {
  index_t entry, sinks, window;
  row_place operator()(index_t position, index_t most) const noexcept {
    if (position < sinks) return {entry, position, std::min(most, sinks - position)};
    const index_t turn = (position - sinks) % window;
    return {entry, sinks + turn, std::min(most, window - turn)};
  }
};

}  // namespace detail

/// Keys and values of B sequences, each its first S tokens (attention sinks) and the newest W of the others.
///
/// Token t of a sequence is in row t if t < S, else in row S + (t - S) mod W. It keeps its true position: keys that
/// were rotated for it stay valid.
///
/// Rows, `keys`, `values` as in contiguous_cache.
/// k  [B,G,S+W,D], v [B,G,S+W,E]: the cache's own, or memory of the caller's.
///
/// Satisfies key_value_cache with two pieces: the sinks at position 0, and the window at the position of its oldest
/// token. `end` counts all tokens seen.
/// Legal edges, copies, cost: as contiguous_cache, and S = 0.
/// Throws heed::invalid_argument: as contiguous_cache, and W < 1.
/// Paper: Xiao, Tian, Chen, Han, Lewis, Efficient Streaming Language Models with Attention Sinks, 2024.
template <class Rows>
class ring_cache : public detail::cache_rows<Rows> {
  using base = detail::cache_rows<Rows>;
  using typename base::memory;
  using typename base::settings;

 public:
  static constexpr int pieces = 2;

  explicit ring_cache(const ring_sizes& sizes, const settings& keys = {}, const settings& values = {})
      : base(shape_of(sizes, keys, values), keys, values),
        sinks_(sizes.sinks),
        window_(sizes.window),
        end_({sizes.batch}) {}

  ring_cache(const ring_sizes& sizes, const memory& k, const memory& v, const settings& keys = {},
             const settings& values = {})
      : base(detail::checker("ring_cache"), shape_of(sizes, keys, values), k, v, keys, values),
        sinks_(sizes.sinks),
        window_(sizes.window),
        end_({sizes.batch}) {}

  index_t batch() const noexcept { return end_.extent(0); }
  index_t sinks() const noexcept { return sinks_; }
  index_t window() const noexcept { return window_; }

  /// Number of tokens that sequence b has seen.
  index_t end(index_t b) const noexcept { return end_(b); }
  /// Of the first key of piece 0, the sinks, or 1, the window.
  index_t position(index_t b, int piece) const noexcept { return piece == 0 ? 0 : std::max(sinks_, end_(b) - window_); }
  auto piece(index_t b, index_t g, int piece) const noexcept {
    const index_t first = position(b, piece), last = piece == 0 ? std::min(sinks_, end_(b)) : end_(b);
    return this->source(g, walk(b), first, std::max<index_t>(0, last - first));
  }

  /// Appends T <= W rows to every sequence; they take the places of the oldest rows of the window.
  ///
  /// Attention after it lets the first of the T tokens see the W - T older ones of the window: attend, then append, or
  /// append one token at a time, where every query must see exactly W.
  ///
  /// k [B,G,T,D], v [B,G,T,E]; rounding, cost and errors as contiguous_cache::append, and T > W.
  void append(const new_rows<Rows, 4>& k, const new_rows<Rows, 4>& v) {
    const detail::checker check("ring_cache::append");
    this->check_new(check, batch(), k, v);
    check_count(check, this->rows_of(k));
    for (index_t b = 0; b < batch(); ++b) write(b, k[b], v[b]);
  }

  /// The same for one sequence: k [G,T,D], v [G,T,E].
  void append(index_t b, const new_rows<Rows, 3>& k, const new_rows<Rows, 3>& v) {
    const detail::checker check("ring_cache::append");
    detail::check_sequence(check, "b", b, batch());
    this->check_new(check, 1, k, v);
    check_count(check, this->rows_of(k));
    write(b, k, v);
  }

  /// Forgets sequence b.
  void clear(index_t b) {
    detail::check_sequence(detail::checker("ring_cache::clear"), "b", b, batch());
    end_(b) = 0;
  }

  /// Forgets everything.
  void clear() noexcept { end_.fill(0); }

 private:
  static detail::cache_shape shape_of(const ring_sizes& sizes, const settings& keys, const settings& values) {
    const detail::checker check("ring_cache");
    check.require(sizes.sinks >= 0 && sizes.sinks <= detail::most_tokens, "sizes.sinks", "0 to 2^30", sizes.sinks);
    check.require(sizes.window >= 1 && sizes.window <= detail::most_tokens, "sizes.window", "1 to 2^30", sizes.window);
    return detail::checked_shape<Rows>(check, sizes, sizes.batch, sizes.sinks + sizes.window, keys, values);
  }

  void check_count(const detail::checker& check, index_t rows) const {
    if (rows > window_) [[unlikely]]
      check.fail_with("k (T)",
                      detail::text("at most %lld, the window; append more in pieces of at most that, attending to each",
                                   static_cast<long long>(window_))
                          .c_str(),
                      detail::show(rows).c_str());
  }

  detail::ring_walk walk(index_t b) const noexcept { return {b, sinks_, window_}; }

  void write(index_t b, const new_rows<Rows, 3>& k, const new_rows<Rows, 3>& v) noexcept {
    this->write_rows(walk(b), end_(b), k, v);
    end_(b) += this->rows_of(k);
  }

  index_t sinks_, window_;
  tensor<index_t, 1> end_;
};

HEED_ARCH_END
