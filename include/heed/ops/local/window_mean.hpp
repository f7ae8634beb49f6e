/// Means over the last L tokens: what queries that summarise a stretch of items are made of.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/window_mean_options.hpp>
#include <heed/kernel/chunk_rows.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// out_t = b_t sum over the tokens s of (t - length, t] of a_s x_s, without a subtraction: each window is the end of
/// one block of `length` tokens and the beginning of the next. What a weight of 0 stands for is not read.
///
/// The mean has a = mask, b = 1 / count; its gradient runs from the last token to the first with both exchanged.
template <class S, class A>
class window_sums {
 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;

  window_sums(const view<const S, 3>& x, const view<S, 3>& out, index_t length, const view<const std::uint8_t, 2>& mask,
              bool gradient) noexcept
      : x_(x),
        out_(out),
        mask_(mask),
        gradient_(gradient),
        tokens_(x.extent(1)),
        length_(std::clamp<index_t>(length, 1, std::max<index_t>(1, tokens_))),
        blocks_of_task_((least_tokens + length_ - 1) / length_) {}

  index_t worker_bytes() const noexcept {
    scratch_cursor count(nullptr);
    workspace(count, *this);
    return round_up(count.used(), cache_line);
  }
  index_t bytes(const executor_ref& where) const noexcept { return scratch_total(worker_bytes(), where.concurrency); }

  void run(const checker& check, scratch_view scratch, const executor_ref& where) const {
    const index_t panels = (x_.extent(2) + panel - 1) / panel;
    const index_t spans = (tokens_ + blocks_of_task_ * length_ - 1) / (blocks_of_task_ * length_);
    const scratch_block memory(check, scratch, bytes(where));
    auto task = [&](index_t number, index_t worker) {
      scratch_cursor cursor(memory.data() + worker * worker_bytes());
      workspace space(cursor, *this);
      const index_t first = number % panels * panel;
      sum_span(space, number / panels / spans, number / panels % spans * blocks_of_task_, first,
               std::min(panel, x_.extent(2) - first));
    };
    for_each_task(where, x_.extent(0) * spans * panels, task);
  }

 private:
  static constexpr index_t least_tokens = 1024;
  static constexpr int vectors = 4;
  static constexpr index_t panel = vectors * P::lanes;  // features of a task

  struct workspace {
    workspace(scratch_cursor& memory, const window_sums& call) noexcept
        : ends(memory.take<T>(call.length_ * panel)),
          before(memory.take<T>(call.rows_of_task())),
          after(memory.take<T>(call.rows_of_task())) {}
    T* ends;    // [token of the last block][feature]: sums from there to the end of that block
    T* before;  // [token of the task]: factors of what is summed
    T* after;   // and of sums
  };

  /// A task looks at the block before its own as well.
  index_t rows_of_task() const noexcept { return (blocks_of_task_ + 1) * length_; }

  /// Tokens in the order of the sums.
  index_t token(index_t t) const noexcept { return gradient_ ? tokens_ - 1 - t : t; }

  bool counts(index_t b, index_t token) const noexcept { return !mask_ || mask_(b, token) != 0; }

  void sum_span(workspace& space, index_t b, index_t first_block, index_t feature, index_t features) const noexcept {
    const index_t begin = std::max<index_t>(0, first_block - 1) * length_;
    const index_t end = std::min(tokens_, (first_block + blocks_of_task_) * length_);
    load_factors(space, b, begin, end);
    for (index_t block = begin / length_; block * length_ < end; ++block) {
      const index_t first = block * length_, last = std::min(end, first + length_);
      if (block >= first_block) add_beginnings(space, b, first, last, begin, feature, features);
      if (last < end) add_ends(space, b, first, last, begin, feature, features);
    }
  }

  void load_factors(workspace& space, index_t b, index_t begin, index_t end) const noexcept {
    T* const mask = gradient_ ? space.after : space.before;
    T* const mean = gradient_ ? space.before : space.after;
    const index_t low = std::min(token(begin), token(end - 1)), high = std::max(token(begin), token(end - 1));
    index_t inside = 0;
    for (index_t i = std::max<index_t>(0, low - length_ + 1); i < low; ++i) inside += counts(b, i);
    for (index_t i = low; i <= high; ++i) {
      inside += counts(b, i);
      const index_t t = token(i) - begin;
      mask[t] = counts(b, i) ? T(1) : T(0);
      mean[t] = inside > 0 ? T(1) / T(inside) : T(0);
      if (i - length_ + 1 >= 0) inside -= counts(b, i - length_ + 1);
    }
  }

  /// f(v, numbers in it) for the vectors of some features.
  template <class F>
  HEED_INLINE static void for_panel(index_t features, F f) noexcept {
    for (int v = 0; v * P::lanes < features; ++v)
      f(v, static_cast<int>(std::min<index_t>(P::lanes, features - v * P::lanes)));
  }

  HEED_INLINE void add_row(const workspace& space, index_t b, index_t t, index_t begin, index_t feature,
                           index_t features, P (&sum)[vectors]) const noexcept {
    const T factor = space.before[t - begin];
    if (factor == T(0)) return;
    const S* const row = &x_(b, token(t), feature);
    for_panel(features,
              [&](int v, int some) { sum[v] = fma(P(factor), load_some<T, A>(row + v * P::lanes, some), sum[v]); });
  }

  /// ends[t] = the sum of tokens [t, last) for the tokens of a whole block.
  void add_ends(workspace& space, index_t b, index_t first, index_t last, index_t begin, index_t feature,
                index_t features) const noexcept {
    P sum[vectors];
    for (index_t t = last - 1; t >= first; --t) {
      add_row(space, b, t, begin, feature, features, sum);
      for_panel(features, [&](int v, int) { sum[v].store_aligned(space.ends + (t - first) * panel + v * P::lanes); });
    }
  }

  /// The outputs of a block: what it has so far, and the end of the block before.
  void add_beginnings(const workspace& space, index_t b, index_t first, index_t last, index_t begin, index_t feature,
                      index_t features) const noexcept {
    P sum[vectors];
    for (index_t t = first; t < last; ++t) {
      add_row(space, b, t, begin, feature, features, sum);
      const T factor = space.after[t - begin];
      const T* const end = first > 0 && t - first + 1 < length_ ? space.ends + (t - first + 1) * panel : nullptr;
      S* const row = &out_(b, token(t), feature);
      for_panel(features, [&](int v, int some) {
        const P window = end != nullptr ? P::load_aligned(end + v * P::lanes) + sum[v] : sum[v];
        store_some(row + v * P::lanes, factor == T(0) ? P(T(0)) : window * P(factor), some);
      });
    }
  }

  view<const S, 3> x_;
  view<S, 3> out_;
  view<const std::uint8_t, 2> mask_;
  bool gradient_;
  index_t tokens_, length_, blocks_of_task_;
};

/// Either direction, for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void window_mean_on(const char* op, const char* x_name, const char* out_name, bool gradient, view<const S, 3> x,
                    index_t length, view<S, 3> out, const window_mean_options& options) {
  const checker check(op);
  check.tensor(x, x_name);
  check.output(out, out_name);
  check.require(length >= 1, "length (L)", "at least 1", length);
  const char* const as_input = gradient ? "as dout" : "as x";
  for (int axis = 0; axis < 3; ++axis) check.extent(out, out_name, axis, x.extent(axis), as_input);
  if (options.mask) {
    check.extent(options.mask, "options.mask", 0, x.extent(0), "B");
    check.extent(options.mask, "options.mask", 1, x.extent(1), "N");
    check.no_overlap(out, out_name, options.mask, "options.mask");
  }
  check.no_overlap(out, out_name, x, x_name);
  if (is_empty(x)) return;
  window_sums<S, A>(x, out, length, options.mask, gradient).run(check, options.scratch, resolve(options.executor));
}

}  // namespace detail

/// Scratch, in bytes, that window_mean_forward and window_mean_backward need for tensors of these extents and options:
/// what `options.scratch` must hold. Data is not looked at.
template <element T, class A = default_arch>
index_t window_mean_scratch_bytes(const std::type_identity_t<view<const T, 3>>& x, index_t length,
                                  const window_mean_options& options = {}) {
  return detail::window_sums<T, A>(x, {}, length, options.mask, false).bytes(detail::resolve(options.executor));
}

/// The mean of the last L tokens that count: out[b,i,:] = sum m[b,t] x[b,t,:] / sum m[b,t] over t in (i - L, i], t >= 0
///
/// x       [B,N,D]  tokens
/// length           L, at least 1; 1 gives the tokens that count themselves
/// out     [B,N,D]  output; must not overlap x. Its element type, float, double, bfloat16 or float16, is that of x. Any
///                  outer strides; the last axis contiguous.
/// options          see window_mean_options; m is options.mask, where 0 means 0 and all else 1
///
/// Legal edges: B, N or D = 0; L > N; windows in which nothing counts (0). Tokens that do not count are not read.
/// Cost: O(N D), whatever L is: 3 additions a number. Scratch O(L + 1024) numbers a worker (window_mean_scratch_bytes):
/// options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: accumulates in float (double for double), at most L terms and no difference of sums, so errors do not
/// travel from one window to the next: below u L mean |m x|, u = 2^-24 (2^-53 for double), plus the rounding of out.
/// NaN and infinity stay in the windows that hold them.
/// Throws heed::invalid_argument before any write: extents that do not fit each other, L < 1, a strided last axis, null
/// data, overlap of out, scratch too small.
/// Paper: Zhu et al., Collaboration and Transition: Distilling Item Transitions into Multi-Query Self-Attention for
/// Sequential Recommendation, 2024 (MQSA-TED): what the queries of its long branch are projected from.
template <writable<3> Out>
void window_mean_forward(std::type_identity_t<view<const element_of_t<Out>, 3>> x, index_t length, Out&& out,
                         const window_mean_options& options = {}) {
  using S = element_of_t<Out>;
  static_assert(element<S>,
                "heed::window_mean_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::window_mean_on<default_arch, S>("window_mean_forward", "x", "out", false, x, length,
                                            view_traits<std::remove_reference_t<Out>>::make(out), options);
}

/// Gradient of window_mean_forward by x: dx[b,j,:] = m[b,j] sum of dout[b,i,:] / count[b,i] over i in [j, j + L), i < N
///
/// dout    [B,N,D]  gradient by out. Rows whose windows count nothing are not read.
/// length           L, as in the forward call
/// dx      [B,N,D]  output, overwritten; everything else as in window_mean_forward
template <writable<3> DX>
void window_mean_backward(std::type_identity_t<view<const element_of_t<DX>, 3>> dout, index_t length, DX&& dx,
                          const window_mean_options& options = {}) {
  using S = element_of_t<DX>;
  static_assert(element<S>,
                "heed::window_mean_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::window_mean_on<default_arch, S>("window_mean_backward", "dout", "dx", true, dout, length,
                                            view_traits<std::remove_reference_t<DX>>::make(dx), options);
}

HEED_ARCH_END
