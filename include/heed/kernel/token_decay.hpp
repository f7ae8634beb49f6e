/// What gates of one number a token multiply up to within a chunk.
#pragma once

#include <heed/kernel/chunk_decay.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

HEED_ARCH_BEGIN
namespace detail {

/// Gates of one number a token, and what they multiply up to within a chunk.
template <class T>
struct token_decay {
  T* gate = nullptr;         ///< [t]
  T* until = nullptr;        ///< [t]: product of the gates up to t, its own included
  const T* after = nullptr;  ///< [t]: product of the gates after t
  T total = T(1);

  token_decay() = default;
  token_decay(scratch_cursor& memory, index_t of_tokens) noexcept
      : gate(memory.take<T>(of_tokens)),
        until(memory.take<T>(of_tokens)),
        tokens(of_tokens),
        products(memory.take<T>(of_tokens)),
        faded(memory.take<T>(of_tokens + cache_line)) {}

  static T flushed(T x) noexcept { return x < negligible_decay<T> ? T(0) : x; }

  /// From log gates, a vector of which log_gates(t) gives.
  template <class A, class LogGates>
  void multiply(index_t count, const LogGates& log_gates) noexcept {
    for_vectors<T, A>(count, [&](index_t t, int some) { gate_of(log_gates(t, some)).store_first(gate + t, some); });
    total = T(1);
    for (index_t t = 0; t < count; ++t) until[t] = total = flushed(total * gate[t]);
    T product = T(1);
    for (index_t t = count - 1; t >= 0; --t) {
      products[t] = product;
      product = flushed(product * gate[t]);
    }
    after = products;
  }

  /// From one log gate for all tokens. Its powers are kept as long as it stays.
  void repeat(index_t count, T log_gate) noexcept {
    if (!(log_gate == repeated)) {
      repeated = log_gate;
      for (index_t t = 0; t < tokens; ++t) until[t] = power(t + 1);
      for (index_t t = 0; t < tokens; ++t) faded[t] = t + 1 == tokens ? T(1) : until[tokens - 2 - t];
      std::fill_n(faded + tokens, cache_line, T(0));
    }
    after = faded + (tokens - count);
    total = until[count - 1];
  }

  /// weights[t][j] *= product of the gates of tokens j + 1 .. t, for j <= t and rows [begin, end).
  template <class A>
  HEED_NOINLINE void fade(row_span<T> weights, index_t begin, index_t end) const noexcept {
    using P = pack<T, A>;
    const auto fade_row = [&](index_t t, const T* products_of_row) {
      for (index_t j = 0; j <= t; j += P::lanes)
        (P::load_aligned(weights[t] + j) * P::load(products_of_row + j)).store_aligned(weights[t] + j);
    };
    if (repeated <= 0) {
      for (index_t t = begin; t < end; ++t) fade_row(t, faded + (tokens - 1 - t));
      return;
    }
    std::fill_n(faded, round_up(end, P::lanes), T(0));
    for (index_t t = 0; t < end; ++t) {
      const P a(gate[t]);
      for (index_t j = 0; j < t; j += P::lanes)
        without_negligible(P::load_aligned(faded + j) * a).store_aligned(faded + j);
      faded[t] = T(1);
      if (t >= begin) fade_row(t, faded);
    }
  }

 private:
  T power(index_t exponent) const noexcept {
    return flushed(static_cast<T>(std::exp(static_cast<double>(repeated) * static_cast<double>(exponent))));
  }

  index_t tokens = 0;
  T* products = nullptr;
  /// [j]: product of the gates of tokens j + 1 .. t, while t goes up; or, of a gate that is repeated, its powers
  /// tokens - 1 - j, then zeros.
  T* faded = nullptr;
  T repeated = std::numeric_limits<T>::quiet_NaN();
};

}  // namespace detail
HEED_ARCH_END
