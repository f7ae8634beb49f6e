/// Runs a checked ring_forward call: keys come round, and the states of the queries stay.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/kernel/ring_plan.hpp>
#include <heed/kernel/softmax_states.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Memory of a call on one rank.
template <class S, class A>
struct ring_forward_memory {
  ring_forward_memory(scratch_cursor& memory, const ring_plan& plan, const view<const S, 4>& q, index_t groups,
                      index_t e, bool bias, const executor_ref& where) noexcept
      : state(memory, q, e, bias, where) {
    const index_t most = plan.largest_shard();
    query_positions = memory.take<std::int32_t>(q.extent(2) + position_padding);
    key_positions = memory.take<std::int32_t>(most + position_padding);
    bias_columns = bias ? memory.take<std::int32_t>(most + position_padding) : nullptr;
    for (S*& shard : shards)
      shard = plan.ranks() > 1 ? memory.take<S>(key_value_shard<S>::elements(q.extent(0), groups, most, q.extent(3), e))
                               : nullptr;
  }

  softmax_state_memory<S, A> state;
  std::int32_t* query_positions;
  std::int32_t* key_positions;
  std::int32_t* bias_columns;
  S* shards[2];
};

template <class A, class S>
HEED_COLD index_t ring_forward_bytes(const ring_plan& plan, const view<const S, 4>& q, index_t groups, index_t e,
                                     bool bias, const executor_ref& where) noexcept {
  scratch_cursor count(nullptr);
  ring_forward_memory<S, A>(count, plan, q, groups, e, bias, where);
  return scratch_total(count.used(), 1);
}

/// `last`: the last step in which any rank may see a key.
template <class A, class S, class Transport, class Mask, class... Mods>
HEED_COLD void run_ring_forward(const checker& check, Transport& ranks, const ring_plan& plan, int last,
                                const softmax_rows<S>& rows, const view<const S, 4>& k, const view<const S, 4>& v,
                                const windowed<Mask>& mask, const score_chain<Mods...>& chain, scratch_view scratch,
                                const executor_ref& where, int tag) {
  using T = accumulator_t<S>;
  const index_t batch = rows.q.extent(0), heads = rows.q.extent(1);
  const index_t groups = k.extent(1), d = rows.q.extent(3), e = rows.out.extent(3);
  const bool bias = static_cast<bool>(rows.bias);
  const scratch_block block(check, scratch, ring_forward_bytes<A, S>(plan, rows.q, groups, e, bias, where));
  scratch_cursor cursor(block.data());
  const ring_forward_memory<S, A> memory(cursor, plan, rows.q, groups, e, bias, where);
  const softmax_state_rows<S> resumed{rows, memory.state.states(rows.out)};
  clear_states(resumed.states, where);

  list_tokens(plan.queries, plan.rank, plan.q_offset, memory.query_positions);
  placement place{memory.query_positions, memory.key_positions, rows.q.extent(2), 0};
  transport_watch watch(ranks);
  const auto scores = place_scores(place, chain, {});
  const auto placed_chain = chain_placed(chain.softcap, scores);
  const placed_mask<Mask> placed{place, mask, last > 0 ? watch.watch() : tile_watch{}};

  const auto shard = [&](int step, int buffer) {
    return key_value_shard<S>(memory.shards[buffer], batch, groups, plan.keys.count(plan.source(step)), d, e);
  };
  if (last > 0) {
    const key_value_shard<S> own = shard(0, 0);
    copy_rows(k, own.k);
    copy_rows(v, own.v);
  }
  for (int step = 0; step <= last; ++step) {
    typename Transport::request messages[2];
    if (step < last) {
      messages[0] = ranks.irecv(shard(step + 1, (step + 1) % 2).bytes(), plan.previous(), tag);
      messages[1] = ranks.isend(shard(step, step % 2).bytes(), plan.next(), tag);
    }
    const int source = plan.source(step);
    if (!sees_nothing_of(plan, source, mask, batch, heads)) {
      list_tokens(plan.keys, source, plan.kv_offset, memory.key_positions);
      place.keys = plan.keys.count(source);
      place.first = plan.rows_ahead(source);
      if (bias) list_tokens(plan.keys, source, 0, memory.bias_columns);
      const key_value_shard<S> here = shard(step, step % 2);
      const softmax_segment_rows<T, dense_keys<S>, placed_mask<Mask>> segment{
          {step == 0 ? k : here.k, step == 0 ? v : here.v},
          {-1, -1, placed},
          place.first,
          0,
          {},
          1,
          memory.bias_columns};
      run_softmax<A>(check, resumed, [&](const auto& f) { f(segment); }, false, placed_chain, memory.state.work, where);
    }
    if (step < last) ranks.wait_all({messages, {2}});
  }
  finish_softmax<A>(check, resumed, memory.state.work, where);
}

}  // namespace detail
HEED_ARCH_END
