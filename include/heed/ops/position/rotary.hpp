/// Rotary positions: pairs of features turn by an angle proportional to the position of their token.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/rotary_options.hpp>
#include <heed/kernel/rotary_table.hpp>

#include <cmath>
#include <cstring>

HEED_ARCH_BEGIN
namespace detail {

/// Tokens whose tables a worker holds at a time.
inline constexpr index_t rotary_block = 16;

template <class T>
index_t rotary_worker_bytes(index_t features, rotary_layout layout) noexcept {
  scratch_cursor count(nullptr);
  count.take<T>(2 * rotary_table<T>::width_of(features, layout) * rotary_block);
  return count.used();
}

inline index_t rotary_shared_bytes(index_t features) noexcept {
  scratch_cursor count(nullptr);
  count.take<double>(round_up(features / 2, rotary_table<double>::padding));
  return count.used();
}

/// Lanes 2t and 2t + 1 exchanged.
template <class T, class A>
HEED_INLINE pack<T, A> exchange_neighbors(pack<T, A> p) noexcept {
  using batch = typename pack<T, A>::batch_type;
  constexpr int n = pack<T, A>::lanes;
  const typename batch::register_type r = p.value;
  if constexpr (n == 2)
    return {batch(__builtin_shufflevector(r, r, 1, 0))};
  else if constexpr (n == 4)
    return {batch(__builtin_shufflevector(r, r, 1, 0, 3, 2))};
  else if constexpr (n == 8)
    return {batch(__builtin_shufflevector(r, r, 1, 0, 3, 2, 5, 4, 7, 6))};
  else
    return {batch(__builtin_shufflevector(r, r, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14))};
}

/// Turns the pairs of one token of one head. Reads what a step needs before it writes: from and to may be the same row.
template <class A, class T, class S>
HEED_INLINE void rotate_half_split(const S* from, S* to, index_t pairs, const T* cosines, const T* sines) noexcept {
  using real = pack<T, A>;
  const auto turn = [&](index_t t, real a, real b, auto store) {
    const real c = real::load(cosines + t), s = real::load(sines + t);
    store(to + t, fma(-b, s, a * c));
    store(to + pairs + t, fma(a, s, b * c));
  };
  index_t t = 0;
  for (; t + real::lanes <= pairs; t += real::lanes)
    turn(t, load_as<T, A>(from + t), load_as<T, A>(from + pairs + t), [](S* at, real y) { store_as(at, y); });
  if (t < pairs) {
    const int rest = static_cast<int>(pairs - t);
    turn(t, load_first_as<T, A>(from + t, rest), load_first_as<T, A>(from + pairs + t, rest),
         [=](S* at, real y) { store_first_as(at, y, rest); });
  }
}

template <class A, class T, class S>
HEED_INLINE void rotate_interleaved(const S* from, S* to, index_t features, const T* cosines, const T* sines) noexcept {
  using real = pack<T, A>;
  const auto turn = [&](index_t t, real x) {
    return fma(exchange_neighbors(x), real::load(sines + t), x * real::load(cosines + t));
  };
  index_t t = 0;
  for (; t + real::lanes <= features; t += real::lanes) store_as(to + t, turn(t, load_as<T, A>(from + t)));
  if (t < features) {
    const int rest = static_cast<int>(features - t);
    store_first_as(to + t, turn(t, load_first_as<T, A>(from + t, rest)), rest);
  }
}

/// What a call works on, once checked.
template <class S>
struct rotary_work {
  view<const S, 4> x;
  view<S, 4> out;
  rotary_positions positions;
  double position_scale;
  index_t features;
  rotary_layout layout;
  const double* frequencies;

  /// Table rows needed: one per token where all batch entries share positions, else one per token of each entry.
  index_t tokens() const noexcept { return positions.rank() == 2 ? x.extent(0) * x.extent(2) : x.extent(2); }
  /// Rows [features] that use one table row.
  index_t rows() const noexcept { return positions.rank() == 2 ? x.extent(1) : x.extent(0) * x.extent(1); }

  template <class A, class T>
  void run(index_t first_token, index_t last_token, index_t first_row, index_t last_row,
           const rotary_table<T>& table) const noexcept {
    const index_t N = x.extent(2), H = x.extent(1);
    const bool per_entry = positions.rank() == 2;
    for (index_t token = first_token; token < last_token; ++token) {
      const index_t b = per_entry ? token / N : 0, row = token - first_token;
      rotary_table_row<A>(positions.at(b, token - b * N) * position_scale, frequencies, features / 2, layout,
                          table.cosines(row), table.sines(row));
    }
    for (index_t r = first_row; r < last_row; ++r)
      for (index_t token = first_token; token < last_token; ++token) {
        const index_t b = per_entry ? token / N : r / H, h = per_entry ? r : r - b * H;
        const index_t i = per_entry ? token - b * N : token;
        const S* from = &x(b, h, i, 0);
        S* to = &out(b, h, i, 0);
        const T *cosines = table.cosines(token - first_token), *sines = table.sines(token - first_token);
        if (layout == rotary_layout::half_split)
          rotate_half_split<A>(from, to, features / 2, cosines, sines);
        else
          rotate_interleaved<A>(from, to, features, cosines, sines);
        if (from != to && features < x.extent(3))
          std::memcpy(to + features, from + features, static_cast<std::size_t>(x.extent(3) - features) * sizeof(S));
      }
  }
};

template <class S>
bool same_rows(const view<const S, 4>& x, const view<S, 4>& out) noexcept {
  bool same = x.data() == out.data();
  for (int axis = 0; axis < 4; ++axis) same = same && (x.extent(axis) <= 1 || x.stride(axis) == out.stride(axis));
  return same;
}

template <class S>
void check_rotary(const checker& check, const view<const S, 4>& x, const char* x_name,
                  const rotary_positions& positions, const view<S, 4>& out, const char* out_name,
                  const rotary_options& options) {
  check.tensor(x, x_name);
  check.output(out, out_name);
  for (int axis = 0; axis < 4; ++axis) check.extent(out, out_name, axis, x.extent(axis), "as the input");
  const index_t N = x.extent(2), D = x.extent(3), R = options.features.or_default(D);
  check.require(D > 0, x_name, "at least one feature", D);
  if (R % 2 != 0 || R < 2 || R > D) [[unlikely]]
    check.fail_with("options.features", text("an even number from 2 to D = %lld", static_cast<long long>(D)).c_str(),
                    show(R).c_str());
  check.require(std::isfinite(options.base) && options.base > 0, "options.base", "a finite number above 0",
                options.base);
  check.require(std::isfinite(options.position_scale), "options.position_scale", "a finite number",
                options.position_scale);
  check.require(options.layout == rotary_layout::half_split || options.layout == rotary_layout::interleaved,
                "options.layout", "half_split or interleaved", static_cast<int>(options.layout));
  if (positions.rank() > 0) {
    const view<const std::byte, 3> memory = positions.memory();
    if (positions.rank() == 2) check.extent(memory, "positions", 0, x.extent(0), "B");
    if (memory.extent(1) != N) [[unlikely]]
      check.fail_with("positions", text("%lld positions (N)", static_cast<long long>(N)).c_str(),
                      show(memory.extent(1)).c_str());
    check.require(is_empty(memory) || memory.data() != nullptr, "positions", "data", "a null pointer");
    check.no_overlap(out, out_name, memory, "positions");
  }
  if (!same_rows(x, out)) check.no_overlap(out, out_name, x, x_name);
}

template <class A, class S>
void rotary_on(const char* op, double direction, const view<const S, 4>& x, const char* x_name,
               const rotary_positions& positions, const view<S, 4>& out, const char* out_name,
               const rotary_options& options) {
  using T = accumulator_t<S>;
  const checker check(op);
  check_rotary(check, x, x_name, positions, out, out_name, options);
  if (is_empty(x)) return;

  const index_t features = options.features.or_default(x.extent(3));
  const executor_ref where = resolve(options.executor);
  const index_t share = rotary_worker_bytes<T>(features, options.layout), shared = rotary_shared_bytes(features);
  const scratch_block scratch(check, options.scratch, shared + scratch_total(share, where.concurrency));
  auto* const frequencies = reinterpret_cast<double*>(scratch.data());
  rotary_frequencies(options.base, features, frequencies);

  const rotary_work<S> work{x,          out, positions, direction * options.position_scale, features, options.layout,
                            frequencies};
  // Tasks are cut by shape alone. Where there are few blocks of tokens, the rows that share a table are divided too.
  const index_t tokens = work.tokens(), rows = work.rows();
  const index_t blocks = (tokens + rotary_block - 1) / rotary_block;
  const index_t block = tokens < rotary_block ? tokens : rotary_block;
  const index_t enough = 1 + 65536 / (block * x.extent(3));
  const index_t rows_each = blocks >= 8 || rows <= enough ? rows : enough;
  const index_t row_groups = (rows + rows_each - 1) / rows_each;

  auto task = [&](index_t number, index_t worker) {
    const rotary_table<T> table{reinterpret_cast<T*>(scratch.data() + shared + worker * share),
                                rotary_table<T>::width_of(features, options.layout)};
    const index_t token = number / row_groups * rotary_block, row = number % row_groups * rows_each;
    work.template run<A>(token, token + rotary_block < tokens ? token + rotary_block : tokens, row,
                         row + rows_each < rows ? row + rows_each : rows, table);
  };
  for_each_task(where, blocks * row_groups, task);
}

}  // namespace detail

/// Scratch, in bytes, that rotary_forward and rotary_backward need for head size D and these options: what
/// `options.scratch` must hold. Depends on D, the element type, features, layout and the executor's concurrency.
template <element T>
index_t rotary_scratch_bytes(index_t D, const rotary_options& options = {}) {
  const index_t features = options.features.or_default(D);
  return detail::rotary_shared_bytes(features) +
         detail::scratch_total(detail::rotary_worker_bytes<accumulator_t<T>>(features, options.layout),
                               detail::resolve(options.executor).concurrency);
}

/// Rotary positions: with phi = position[i] * position_scale * base^(-2t/R), for each pair (a, b) of features, t < R/2,
///     out[b,h,i,a] = x_a cos phi - x_b sin phi,   out[b,h,i,b] = x_b cos phi + x_a sin phi
/// Features from R on are copied bit by bit.
///
/// x          [B,H,N,D]  queries or keys (never values)
/// positions  [N] or [B,N], 32- or 64-bit integers or double; see rotary_positions
/// out        [B,H,N,D]  output. May be x itself (same data, same strides); must not overlap x in any other way. Its
///                       element type, float, double, bfloat16 or float16, is that of x. Any outer strides; the last
///                       axis contiguous.
/// options    see rotary_options
///
/// The inverse is rotary_backward, or the negated position. Turning by p, then by d, is turning by p + d: cached keys
/// move d positions on by one call with rotary_positions::everywhere(d). Each call rounds once to the element type.
///
/// Legal edges: B, H or N = 0.
/// Cost: O(B H N D), one sine and cosine per token and pair, shared by all heads. Scratch O(R) a worker
/// (rotary_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: sines and cosines of angles computed in double, |phi| 2^-51 + 2^-52 absolute; then 3 u max(|x_a|, |x_b|),
/// u = 2^-24 (2^-53 for double), plus the rounding of out to its type. NaN positions give NaN.
/// Throws heed::invalid_argument before any write: extents that do not fit each other, D zero, a strided last axis,
/// null data, overlap other than out = x, features odd or not in 2..D, base not finite or <= 0, position_scale not
/// finite, scratch too small.
/// Paper: Su, Lu, Pan, Murtadha, Wen, Liu, RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021, eq. 34.
template <writable<4> Out>
void rotary_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> x, const rotary_positions& positions,
                    Out&& out, const rotary_options& options = {}) {
  using S = element_of_t<Out>;
  static_assert(element<S>, "heed::rotary_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::rotary_on<default_arch, S>("rotary_forward", 1.0, x, "x", positions,
                                       view_traits<std::remove_reference_t<Out>>::make(out), "out", options);
}

/// Gradient of rotary_forward with respect to x: dx = dout turned by -phi. Also its inverse.
///
/// dout       [B,H,N,D]  gradient of out
/// positions, options    those of the forward call
/// dx         [B,H,N,D]  output; may be dout itself. Everything else as in rotary_forward.
template <writable<4> Out>
void rotary_backward(std::type_identity_t<view<const element_of_t<Out>, 4>> dout, const rotary_positions& positions,
                     Out&& dx, const rotary_options& options = {}) {
  using S = element_of_t<Out>;
  static_assert(element<S>, "heed::rotary_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::rotary_on<default_arch, S>("rotary_backward", -1.0, dout, "dout", positions,
                                       view_traits<std::remove_reference_t<Out>>::make(dx), "dx", options);
}

HEED_ARCH_END
