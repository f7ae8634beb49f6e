/// A checked call for statistics of softmax attention, and the scratch that a worker of it needs.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/core/softmax_statistics_options.hpp>
#include <heed/kernel/mods.hpp>
#include <heed/kernel/seen_blocks.hpp>
#include <heed/kernel/softmax_checks.hpp>
#include <heed/kernel/weight_tile.hpp>

#include <utility>

HEED_ARCH_BEGIN
namespace detail {

/// Whether statistics can be had of tensors of S with these mods; if not, the compiler says why.
template <class S, class... Mods>
consteval bool has_statistics() {
  static_assert(element<S>, "heed: softmax statistics: q must be float, double, heed::bfloat16 or heed::float16");
  static_assert(mask_count<Mods...> <= 1, "heed: softmax statistics: at most one mask; compose masks with &, | and !");
  if constexpr (element<S>) {
    constexpr bool callable = (... && (is_mask<Mods> || is_score_mod<Mods, accumulator_t<S>>));
    static_assert(callable,
                  "heed: softmax statistics: a mod must be callable as mask(position) -> bool or "
                  "score_mod(score, position) -> score");
    return callable && mask_count<Mods...> <= 1;
  }
  return false;
}

/// What all statistics are made of.
template <class S, class Mask, class... Mods>
struct statistics_call {
  using storage_type = S;
  using T = accumulator_t<S>;

  view<const S, 4> q;     // [B,H,N,D]
  view<const T, 3> lse;   // [B,H,N]
  view<const S, 4> bias;  // broadcast to [B,H,N,M], or empty
  double scale;
  sequence_offsets cu_q, cu_k;
  softmax_segment_rows<S, Mask> segment;
  score_chain<Mods...> chain;

  sequence_span queries(index_t sequence) const noexcept { return span_of(cu_q, sequence, q.extent(2)); }
  sequence_span keys(index_t sequence) const noexcept { return span_of(cu_k, sequence, segment.k.extent(2)); }
  /// Rows that sequences own.
  index_t owned_queries() const noexcept { return cu_q ? cu_q.at(cu_q.size() - 1) : q.extent(2); }
  /// Of the queries, where they meet keys.
  T factor() const noexcept { return static_cast<T>(chain.plain() ? scale * double(log2_e<T>) : scale); }

  template <class A>
  auto meet(const query_rows& at) const {
    return detail::meet<A>(at, q.extent(1), queries(at.sequence).count, bias, segment);
  }
};

/// Checks what all statistics have in common.
template <class S, class... Mods>
auto check_statistics(const checker& check, const view<const S, 4>& q, const view<const S, 4>& k,
                      const view<const accumulator_t<S>, 3>& lse, const softmax_statistics_options<S>& options,
                      const Mods&... mods) {
  check.tensor(q, "q");
  check.require(q.extent(3) > 0, "q.extent(3) (D)", "at least 1", q.extent(3));
  check_key_rows(check, q, k, "k");
  check_row_numbers(check, q, lse, "lse");
  check_scores(check, q, {}, options.scale, options.softcap);
  check_positions(check, q.extent(2), k.extent(2), options.q_offset, options.kv_offset);
  check_window(check, options.window_left, options.window_right);
  check_packed(check, q, k, options.cu_seqlens_q, options.cu_seqlens_k, static_cast<bool>(options.bias));
  const view<const S, 4> bias = broadcast_bias(check, options.bias, q.extent(0), q.extent(1), q.extent(2), k.extent(2));
  const auto& mask = find_mask(mods...);
  using mask_type = std::remove_cvref_t<decltype(mask)>;
  // There are no values: keys stand where a segment has them, and the tiles read no feature of them.
  const softmax_segment_rows<S, mask_type> segment{k,
                                                   k,
                                                   options.cu_seqlens_k,
                                                   {options.window_left, options.window_right, mask},
                                                   options.q_offset,
                                                   options.kv_offset,
                                                   {},
                                                   1};
  const auto with = [&]<class... ScoreMods>(const score_chain<ScoreMods...>& chain) {
    return statistics_call<S, mask_type, ScoreMods...>{q,
                                                       lse,
                                                       bias,
                                                       options.scale.or_default(1 / std::sqrt(double(q.extent(3)))),
                                                       options.cu_seqlens_q,
                                                       options.cu_seqlens_k,
                                                       segment,
                                                       chain};
  };
  return with(find_score_mods(options.softcap, mods...));
}

/// An output must not overlap an input or any of the others.
template <class Output, class Call, class... Others>
HEED_COLD void check_statistic(const checker& check, const Output& output, const char* name, const Call& call,
                               const Others&... others) {
  check_aliasing(check, output, name, call.q, call.segment.k, call.lse, call.bias, others...);
}

/// Scratch of one worker, beside what an operator keeps for itself.
template <class S, class A>
struct statistics_workspace {
  using T = accumulator_t<S>;

  statistics_workspace(scratch_cursor& memory, index_t features, bool bias) noexcept
      : buffers(memory, features, 0, !std::is_same_v<S, T>, bias), tile(memory, buffers) {}
  statistics_workspace(const statistics_workspace&) = delete;
  statistics_workspace& operator=(const statistics_workspace&) = delete;

  tile_buffers<T, A> buffers;
  weight_tile<T, A> tile;
};

}  // namespace detail
HEED_ARCH_END
