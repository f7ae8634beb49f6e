/// The depthwise term of agent attention: values of neighbors, feature by feature.
#pragma once

#include <heed/core/agent_options.hpp>
#include <heed/kernel/chunk_rows.hpp>
#include <heed/kernel/softmax_checks.hpp>
#include <heed/kernel/token_grid.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Calls f(tap, token) for the tokens of the 3 x 3 neighborhood of (y, x) that the image has.
template <class F>
HEED_INLINE void for_neighbors(const token_grid& grid, index_t y, index_t x, F f) {
  for (int i = 0; i < 3; ++i) {
    const index_t row = y + i - 1;
    if (row < 0 || row >= grid.height) continue;
    for (int j = 0; j < 3; ++j) {
      const index_t column = x + j - 1;
      if (column >= 0 && column < grid.width) f(3 * i + j, row * grid.width + column);
    }
  }
}

/// The taps of some neighboring features of a head, one vector each. `flipped`: those of the transposed convolution.
template <class T, class A, class S>
void load_taps(const view<const S, 4>& weight, index_t h, index_t e, int count, bool flipped,
               pack<T, A> (&taps)[9]) noexcept {
  for (int tap = 0; tap < 9; ++tap) {
    const int from = flipped ? 8 - tap : tap;
    alignas(64) T lane[lanes<T, A>] = {};
    for (int i = 0; i < count; ++i) lane[i] = static_cast<T>(weight(h, e + i, from / 3, from % 3));
    taps[tap] = pack<T, A>::load_aligned(lane);
  }
}

/// to[y,x] += start + sum_tap taps[tap] from[neighbor]
template <class T, class A, class S>
HEED_NOINLINE void add_convolution(row_span<const S> from, const token_grid& grid, int count,
                                   const pack<T, A> (&taps)[9], pack<T, A> start, row_span<S> to) noexcept {
  for (index_t y = 0; y < grid.height; ++y)
    for (index_t x = 0; x < grid.width; ++x) {
      pack<T, A> sum = start;
      for_neighbors(grid, y, x,
                    [&](int tap, index_t token) { sum = fma(load_some<T, A>(from[token], count), taps[tap], sum); });
      S* const at = to[y * grid.width + x];
      store_some(at, load_some<T, A>(at, count) + sum, count);
    }
}

/// Calls f(b, h, first feature, features) for vectors of features, each a task.
template <class T, class A, class F>
void for_feature_vectors(const executor_ref& where, index_t batch, index_t heads, index_t features, const F& f) {
  const index_t vectors = vectors_of<T, A>(features);
  auto task = [&](index_t number, index_t) {
    const index_t e = number % vectors * lanes<T, A>;
    f(number / (heads * vectors), number / vectors % heads, e,
      static_cast<int>(std::min<index_t>(lanes<T, A>, features - e)));
  };
  for_each_task(resolve(where), batch * heads * vectors, task);
}

template <class S>
row_span<S> token_rows(const view<S, 4>& t, index_t b, index_t h, index_t e) noexcept {
  return {t.data() + b * t.stride(0) + h * t.stride(1) + e, t.stride(2)};
}

/// [H,E,3,3] and, of any strides, [H,E].
template <class Weight, class Bias, class V>
void check_taps(const checker& check, const Weight& weight, const char* weight_name, const Bias& bias,
                const char* bias_name, const V& v, const char* v_name) {
  check.extent(weight, weight_name, 0, v.extent(1), text("H, as %s", v_name).c_str());
  check.extent(weight, weight_name, 1, v.extent(3), text("E, as %s", v_name).c_str());
  check.extent(weight, weight_name, 2, 3, "3 x 3 taps");
  check.extent(weight, weight_name, 3, 3, "3 x 3 taps");
  check.extent(bias, bias_name, 0, v.extent(1), text("H, as %s", v_name).c_str());
  check.extent(bias, bias_name, 1, v.extent(3), text("E, as %s", v_name).c_str());
}

template <class A, class S>
void agent_depthwise_forward_on(view<const S, 4> v, view<const S, 4> weight, view<const S, 2> bias, view<S, 4> out,
                                const agent_depthwise_options& options) {
  using T = accumulator_t<S>;
  const checker check("agent_depthwise_forward");
  check.tensor(v, "v");
  check.tensor(weight, "weight");
  check.tensor(bias, "bias");
  check.output(out, "out");
  for (int axis = 0; axis < 4; ++axis) check.extent(out, "out", axis, v.extent(axis), "as v");
  check_taps(check, weight, "weight", bias, "bias", v, "v");
  const token_grid grid = checked_grid(check, options.tokens, "options.tokens", v.extent(2), "N");
  check_aliasing(check, out, "out", v, weight, bias);
  for_feature_vectors<T, A>(options.executor, v.extent(0), v.extent(1), v.extent(3),
                            [&](index_t b, index_t h, index_t e, int count) {
                              pack<T, A> taps[9];
                              load_taps<T, A>(weight, h, e, count, false, taps);
                              add_convolution<T, A>(token_rows(v, b, h, e), grid, count, taps,
                                                    load_some<T, A>(&bias(h, e), count), token_rows(out, b, h, e));
                            });
}

template <class A, class S>
void agent_depthwise_backward_on(view<const S, 4> v, view<const S, 4> weight, view<const S, 4> dout, view<S, 4> dv,
                                 view<S, 4> dweight, view<S, 2> dbias, const agent_depthwise_options& options) {
  using T = accumulator_t<S>;
  using P = pack<T, A>;
  const checker check("agent_depthwise_backward");
  check.tensor(v, "v");
  check.tensor(weight, "weight");
  check.tensor(dout, "dout");
  check.output(dv, "dv");
  check.output(dweight, "dweight");
  check.output(dbias, "dbias");
  for (int axis = 0; axis < 4; ++axis) {
    check.extent(dout, "dout", axis, v.extent(axis), "as v");
    check.extent(dv, "dv", axis, v.extent(axis), "as v");
  }
  check_taps(check, weight, "weight", dbias, "dbias", v, "v");
  check_taps(check, dweight, "dweight", dbias, "dbias", v, "v");
  const token_grid grid = checked_grid(check, options.tokens, "options.tokens", v.extent(2), "N");
  check_aliasing(check, dv, "dv", v, weight, dout);
  check_aliasing(check, dweight, "dweight", v, weight, dout, dv);
  check_aliasing(check, dbias, "dbias", v, weight, dout, dv, dweight);
  for_feature_vectors<T, A>(
      options.executor, v.extent(0), v.extent(1), v.extent(3), [&](index_t b, index_t h, index_t e, int count) {
        P taps[9];
        load_taps<T, A>(weight, h, e, count, true, taps);
        add_convolution<T, A>(token_rows(dout, b, h, e), grid, count, taps, P(T(0)), token_rows(dv, b, h, e));
      });
  for_feature_vectors<T, A>(
      options.executor, 1, v.extent(1), v.extent(3), [&](index_t, index_t h, index_t e, int count) {
        P sums[10];
        for (index_t b = 0; b < v.extent(0); ++b) {
          const row_span<const S> from = token_rows(v, b, h, e), slopes = token_rows(dout, b, h, e);
          for (index_t y = 0; y < grid.height; ++y) {
            // A row of the image has sums of its own, so that those of large batches stay accurate.
            P row[10];
            for (index_t x = 0; x < grid.width; ++x) {
              const P slope = load_some<T, A>(slopes[y * grid.width + x], count);
              for_neighbors(grid, y, x, [&](int tap, index_t token) {
                row[tap] = fma(slope, load_some<T, A>(from[token], count), row[tap]);
              });
              row[9] += slope;
            }
            for (int tap = 0; tap < 10; ++tap) sums[tap] += row[tap];
          }
        }
        alignas(64) T lane[P::lanes];
        for (int tap = 0; tap < 9; ++tap) {
          sums[tap].store_aligned(lane);
          for (int i = 0; i < count; ++i) dweight(h, e + i, tap / 3, tap % 3) = static_cast<S>(lane[i]);
        }
        store_some(&dbias(h, e), sums[9], count);
      });
}

}  // namespace detail

/// Adds a 3 x 3 depthwise convolution of the values, with zeros around the image, to the result of agent_forward. Of
/// tokens in an image:
///     out[b,h,(y,x),e] += bias[h,e] + sum_ij weight[h,e,i,j] v[b,h,(y + i - 1, x + j - 1),e],   i, j < 3
///
/// v       [B,H,N,E]  values, as many heads as queries; N = height width >= 1
/// weight  [H,E,3,3]  that of a convolution of H E channels, heads one after the other
/// bias    [H,E]
/// out     [B,H,N,E]  read and written; must not overlap an input. Its element type, float, double, bfloat16 or
///                    float16, is that of all. Any outer strides; the last axis contiguous.
/// options            see agent_depthwise_options
///
/// Legal edges: B, H or E = 0.
/// Cost: 9 B H N E multiply-adds. No scratch, no allocation.
/// Deterministic: bit-equal for any executor and number of threads.
/// Throws heed::invalid_argument before any write: extents that do not fit each other, a grid that is not that of N
/// tokens, N zero, a strided last axis, null data, overlap of out.
/// Paper: Han et al., Agent Attention, 2024, eq. 6.
template <writable<4> Out>
void agent_depthwise_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> v,
                             std::type_identity_t<view<const element_of_t<Out>, 4>> weight,
                             std::type_identity_t<view<const element_of_t<Out>, 2>> bias, Out&& out,
                             const agent_depthwise_options& options = {}) {
  using S = element_of_t<Out>;
  static_assert(element<S>,
                "heed::agent_depthwise_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::agent_depthwise_forward_on<default_arch, S>(v, weight, bias,
                                                        view_traits<std::remove_reference_t<Out>>::make(out), options);
}

/// Gradients of agent_depthwise_forward, given that by out.
///
/// v, weight           what forward was given
/// dout     [B,H,N,E]  gradient by out
/// dv       [B,H,N,E]  the gradient by v is added to it, as forward adds to out: after agent_backward it is that of
///                     both
/// dweight  [H,E,3,3]  outputs, overwritten, as is dbias; none may overlap an input or another output
/// dbias    [H,E]
///
/// Cost: 18 B H N E multiply-adds. Everything else as in agent_depthwise_forward.
template <writable<4> DV, writable<4> DWeight, writable<2> DBias>
void agent_depthwise_backward(std::type_identity_t<view<const element_of_t<DV>, 4>> v,
                              std::type_identity_t<view<const element_of_t<DV>, 4>> weight,
                              std::type_identity_t<view<const element_of_t<DV>, 4>> dout, DV&& dv, DWeight&& dweight,
                              DBias&& dbias, const agent_depthwise_options& options = {}) {
  using S = element_of_t<DV>;
  static_assert(element<S>,
                "heed::agent_depthwise_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::agent_depthwise_backward_on<default_arch, S>(
        v, weight, dout, view_traits<std::remove_reference_t<DV>>::make(dv),
        view_traits<std::remove_reference_t<DWeight>>::make(dweight),
        view_traits<std::remove_reference_t<DBias>>::make(dbias), options);
}

HEED_ARCH_END
