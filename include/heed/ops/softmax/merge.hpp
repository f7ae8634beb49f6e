/// Merging attention over disjoint sets of keys.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/executor.hpp>
#include <heed/kernel/softmax_checks.hpp>
#include <heed/kernel/softmax_merge.hpp>

HEED_BEGIN

/// Options of softmax_merge.
struct softmax_merge_options {
  /// Who runs the tasks. Default: OpenMP if compiled with it, else the calling thread.
  executor_ref executor{};
};

HEED_END

HEED_ARCH_BEGIN
namespace detail {

/// Whether two views of equal extents are the same tensor.
template <class T, class U, int Rank>
bool same_elements(const view<T, Rank>& a, const view<U, Rank>& b) noexcept {
  for (int axis = 0; axis < Rank; ++axis)
    if (a.stride(axis) != b.stride(axis) && a.extent(axis) > 1) return false;
  return a.data() == b.data();
}

}  // namespace detail

/// Attention over the union of two disjoint sets of keys, from the attention over each:
///     out = (e^lse_a out_a + e^lse_b out_b) / (e^lse_a + e^lse_b),   lse = log(e^lse_a + e^lse_b)
///
/// out_a, out_b, out  [B,H,N,E]  outputs of softmax_forward; `out` may be out_a or out_b itself
/// lse_a, lse_b, lse  [B,H,N]    natural log, accumulation type; `lse` may be lse_a or lse_b itself, or empty
///
/// A commutative monoid up to rounding; its identity is the empty state (0, -inf), and merging with it changes nothing,
/// bit for bit. Merge in a fixed order where bit-equal results matter. A sink must be in one of the states only.
/// Cost: O(N E) per head. No scratch. Deterministic: bit-equal for any executor.
/// Throws heed::invalid_argument before any write: extents that differ, a strided last axis, null data, an output that
/// overlaps an input without being the same tensor.
/// Accuracy: 4 u (|out_a| + |out_b|), lse 4 u (|lse| + 1).
/// Paper: Rabe and Staats, Self-attention Does Not Need O(n^2) Memory, 2021, section 2.
template <writable<4> Out>
void softmax_merge(std::type_identity_t<view<const element_of_t<Out>, 4>> out_a,
                   std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 3>> lse_a,
                   std::type_identity_t<view<const element_of_t<Out>, 4>> out_b,
                   std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 3>> lse_b, Out&& out,
                   std::type_identity_t<view<accumulator_t<element_of_t<Out>>, 3>> lse = {},
                   const softmax_merge_options& options = {}) {
  using S = element_of_t<Out>;
  static_assert(element<S>, "heed::softmax_merge: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    using T = accumulator_t<S>;
    const view<S, 4> merged = view_traits<std::remove_reference_t<Out>>::make(out);
    const detail::checker check("softmax_merge");
    check.tensor(out_a, "out_a");
    check.tensor(out_b, "out_b");
    check.output(merged, "out");
    for (int axis = 0; axis < 4; ++axis) {
      check.extent(out_b, "out_b", axis, out_a.extent(axis), "as out_a");
      check.extent(merged, "out", axis, out_a.extent(axis), "as out_a");
    }
    for (int axis = 0; axis < 3; ++axis) {
      check.extent(lse_a, "lse_a", axis, out_a.extent(axis), "as out_a");
      check.extent(lse_b, "lse_b", axis, out_a.extent(axis), "as out_a");
    }
    check.require(lse_a || detail::is_empty(lse_a), "lse_a", "data", "a null pointer");
    check.require(lse_b || detail::is_empty(lse_b), "lse_b", "data", "a null pointer");
    detail::check_lse(check, lse, "lse", out_a, "as out_a");
    // Rows are read before they are written, so a result may stand where its operand stood.
    if (!detail::same_elements(merged, out_a)) check.no_overlap(merged, "out", out_a, "out_a");
    if (!detail::same_elements(merged, out_b)) check.no_overlap(merged, "out", out_b, "out_b");
    if (lse) {
      if (!detail::same_elements(lse, lse_a)) check.no_overlap(lse, "lse", lse_a, "lse_a");
      if (!detail::same_elements(lse, lse_b)) check.no_overlap(lse, "lse", lse_b, "lse_b");
      check.no_overlap(lse, "lse", out_a, "out_a");
      check.no_overlap(lse, "lse", out_b, "out_b");
      check.no_overlap(lse, "lse", merged, "out");
    }
    check.no_overlap(merged, "out", lse_a, "lse_a");
    check.no_overlap(merged, "out", lse_b, "lse_b");

    const index_t heads = merged.extent(1), rows = merged.extent(2);
    auto task = [&](index_t number, index_t) {
      const index_t b = number / heads, h = number % heads;
      for (index_t i = 0; i < rows; ++i) {
        const auto state = detail::weigh_states<T>(lse_a(b, h, i), lse_b(b, h, i));
        detail::blend_rows<default_arch>(&out_a(b, h, i, 0), &out_b(b, h, i, 0), state.of_second, &merged(b, h, i, 0),
                                         merged.extent(3));
        if (lse) lse(b, h, i) = state.lse;
      }
    };
    detail::for_each_task(detail::resolve(options.executor), merged.extent(0) * heads, task);
  }
}

HEED_ARCH_END
