/// What the gates of a chunk multiply up to, as products of numbers in [0, 1]: they vanish where they must, and nothing
/// overflows.
#pragma once

#include <heed/kernel/chunk_rows.hpp>

#include <limits>

HEED_ARCH_BEGIN
namespace detail {

/// Products below this are taken for 0: subnormal numbers would cost a hundred times the time of others.
template <class T>
inline constexpr T negligible_decay = std::is_same_v<T, float> ? T(1e-30) : T(1e-290);

/// Products down to here have an inverse that rows may be multiplied by: 1e18 remains for their numbers.
template <class T>
inline constexpr T mild_decay = std::is_same_v<T, float> ? T(1e-20) : T(1e-150);

template <class T, class A>
HEED_INLINE pack<T, A> without_negligible(pack<T, A> x) noexcept {
  return zero_where(abs(x) < pack<T, A>(negligible_decay<T>), x);
}

/// The same for x >= 0.
template <class T, class A>
HEED_INLINE pack<T, A> decayed(pack<T, A> x) noexcept {
  return zero_where(x < pack<T, A>(negligible_decay<T>), x);
}

/// exp of a log gate, -inf included.
template <class T, class A>
HEED_INLINE pack<T, A> gate_of(pack<T, A> log_gate) noexcept {
  return exp2_bounded<precision::full>(log_gate * pack<T, A>(log2_e<T>));
}

/// The gates of `some` features of token t from number i on, a vector at most, from rows of log gates.
template <class A, class T>
auto gate_rows(row_span<const T> log_gates) noexcept {
  return [log_gates](index_t t, index_t i, int some) { return gate_of(load_some<T, A>(log_gates[t] + i, some)); };
}

/// Gates of `features` features over a chunk.
template <class T>
struct chunk_decay {
  /// [t][i]: product of the gates up to token t, its own included.
  row_span<T> until;
  /// [t][i]: product of the gates after token t.
  row_span<T> after;
  /// [i]: product of all gates, and its inverse.
  T* total = nullptr;
  T* inverse = nullptr;
  /// Whether all inverses are of use, so that the gates between tokens j and t may be had as
  /// until[t] * inverse * after[j].
  bool mild = true;

  chunk_decay() = default;
  chunk_decay(scratch_cursor& memory, index_t tokens, index_t of_features) noexcept
      : until(take_rows<T>(memory, tokens, of_features)),
        after(take_rows<T>(memory, tokens, of_features)),
        total(memory.take<T>(conflict_free_pitch<T>(of_features))),
        inverse(memory.take<T>(conflict_free_pitch<T>(of_features))) {}

  template <class A>
  HEED_INLINE pack<T, A> until_at(index_t t, index_t i) const noexcept {
    return pack<T, A>::load_aligned(until[t] + i);
  }
  template <class A>
  HEED_INLINE pack<T, A> after_at(index_t t, index_t i) const noexcept {
    return pack<T, A>::load_aligned(after[t] + i);
  }

  /// What takes products that nobody reads.
  struct nowhere {};

  /// From gate(t, i, some), the gates of a vector of features of token t, `some` of which there are, for a range of
  /// features. What read(t, i, some, product) and write(t, i, some, product) make of the products is what `until` and
  /// `after` hold in the end: the products themselves, or rows times them, which spares a pass; with nowhere{} in place
  /// of `read`, `until` is not made. The three are copied, and should hold what they need by value: the compiler must
  /// take it that vectors that are stored may change anything they refer to.
  template <class A, class Gate, class Read, class Write>
  void multiply(index_t count, index_range features, Gate gate, Read read, Write write) noexcept {
    constexpr int width = lanes<T, A>;
    if (features.low == 0) mild = true;
    // Several vectors at a time: each is a chain of multiplications.
    index_t i = features.low;
    for (; i + 4 * width <= features.high; i += 4 * width)
      multiply_some<4, A>(count, i, std::integral_constant<int, width>{}, gate, read, write);
    for (; i < features.high; i += width)
      multiply_some<1, A>(count, i, static_cast<int>(std::min<index_t>(width, features.high - i)), gate, read, write);
  }
  template <class A, class Gate>
  void multiply(index_t count, index_range features, Gate gate) noexcept {
    const auto product = [](index_t, index_t, int, pack<T, A> x) { return x; };
    multiply<A>(count, features, gate, product, product);
  }

 private:
  /// For vectors from feature `first` on, all with `some` features.
  template <int Vectors, class A, class Count, class Gate, class Read, class Write>
  HEED_NOINLINE void multiply_some(index_t count, index_t first, Count some, Gate gate, Read read,
                                   Write write) noexcept {
    using P = pack<T, A>;
    const row_span<T> to_until = until, to_after = after;
    const auto for_each_vector = [first](const auto& visit) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) visit(v, first + v * index_t(P::lanes));
    };
    // Exponentials need registers that products would lose.
    for (index_t t = 0; t < count; ++t)
      for_each_vector([&](int, index_t i) { gate(t, i, some).store_aligned(to_after[t] + i); });
    P product[Vectors];
    if constexpr (!std::is_same_v<Read, nowhere>) {
      for (int v = 0; v < Vectors; ++v) product[v] = P(T(1));
      for (index_t t = 0; t < count; ++t)
        for_each_vector([&](int v, index_t i) {
          product[v] = decayed(product[v] * P::load_aligned(to_after[t] + i));
          read(t, i, some, product[v]).store_aligned(to_until[t] + i);
        });
    }
    for (int v = 0; v < Vectors; ++v) product[v] = P(T(1));
    for (index_t t = count - 1; t >= 0; --t)
      for_each_vector([&](int v, index_t i) {
        const P a = P::load_aligned(to_after[t] + i);
        write(t, i, some, product[v]).store_aligned(to_after[t] + i);
        product[v] = decayed(product[v] * a);
      });
    for_each_vector([&](int v, index_t i) {
      mild = mild && !any(product[v] < P(mild_decay<T>));
      product[v].store_aligned(total + i);
      (P(T(1)) / product[v]).store_aligned(inverse + i);
    });
  }
};

/// Calls visit(t) for t in [0, count), when rows[j], j <= t, hold what they did times the gates of tokens j + 1 .. t.
/// The way for chunks that are not mild: it divides by nothing, and costs a multiplication a pair of tokens and
/// feature.
template <class T, class A, class Gate, class Visit>
void decay_downward(index_t count, index_t features, row_span<T> rows, const Gate& gate, const Visit& visit) noexcept {
  using P = pack<T, A>;
  for (index_t t = 0; t < count; ++t) {
    for (index_t i = 0; i < features; i += P::lanes) {
      const P a = gate(t, i, static_cast<int>(std::min<index_t>(P::lanes, features - i)));
      for (index_t j = 0; j < t; ++j) without_negligible(P::load_aligned(rows[j] + i) * a).store_aligned(rows[j] + i);
    }
    visit(t);
  }
}

/// weights[j] = read . rows[j] for j <= t, of rows that faded up to t; 0 up to the end of the last vector.
template <class T, class A, class S>
void weigh_faded(const S* read, row_span<const T> rows, index_t t, index_t features, T* weights) noexcept {
  using P = pack<T, A>;
  std::fill_n(weights, round_up(t + 1, P::lanes), T(0));
  for (index_t j = 0; j <= t; ++j) {
    P sum(T(0));
    for_vectors<T, A>(features, [&](index_t i, int some) {
      sum = fma(load_some<T, A>(read + i, some), P::load_aligned(rows[j] + i), sum);
    });
    weights[j] = reduce_add(sum);
  }
}

/// decay_downward from the last token up: when rows[t], t >= j, hold what they did times the gates of tokens j + 1 .. t.
template <class T, class A, class Gate, class Visit>
void decay_upward(index_t count, index_t features, row_span<T> rows, const Gate& gate, const Visit& visit) noexcept {
  using P = pack<T, A>;
  for (index_t j = count - 1; j >= 0; --j) {
    if (j + 1 < count)
      for (index_t i = 0; i < features; i += P::lanes) {
        const P a = gate(j + 1, i, static_cast<int>(std::min<index_t>(P::lanes, features - i)));
        for (index_t t = j + 1; t < count; ++t)
          without_negligible(P::load_aligned(rows[t] + i) * a).store_aligned(rows[t] + i);
      }
    visit(j);
  }
}

}  // namespace detail
HEED_ARCH_END
