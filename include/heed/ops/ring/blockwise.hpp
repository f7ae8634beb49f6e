/// Exact softmax attention over keys that arrive block by block.
#pragma once

#include <heed/core/blockwise_options.hpp>
#include <heed/core/error.hpp>
#include <heed/kernel/mods.hpp>
#include <heed/kernel/softmax_checks.hpp>
#include <heed/kernel/softmax_states.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class A, class S>
index_t blockwise_bytes(const view<const S, 4>& q, index_t e, const executor_ref& where) noexcept {
  scratch_cursor count(nullptr);
  softmax_state_memory<S, A>(count, q, e, false, where);
  return scratch_total(count.used(), 1);
}

}  // namespace detail

/// Scratch, in bytes, that blockwise_forward needs for queries of these extents: what `options.scratch` must hold.
template <element T, class A = default_arch>
index_t blockwise_forward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q, index_t value_features,
                                        const std::type_identity_t<blockwise_options<T>>& options = {}) {
  return detail::blockwise_bytes<A, T>(q, value_features, detail::resolve(options.executor));
}

namespace detail {

/// Calls f(block) for each block until it answers false; whether it never did.
template <class S, class Blocks, class F>
bool for_each_block(Blocks& blocks, const F& f) {
  if constexpr (std::is_invocable_r_v<bool, Blocks&, key_value_block<S>&>) {
    for (key_value_block<S> block; blocks(block); block = {})
      if (!f(block)) return false;
  } else {
    for (const key_value_block<S>& block : blocks)
      if (!f(block)) return false;
  }
  return true;
}

/// blockwise_forward for an instruction set of the caller's choice.
template <class A, class S, class Blocks, class... Mods>
blockwise_status blockwise_forward_on(view<const S, 4> q, Blocks& blocks, view<S, 4> out,
                                      const blockwise_options<S>& options, const Mods&... mods) {
  static_assert(element<S>, "heed::blockwise_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  static_assert(!element<S> || are_mods<S, Mods...>,
                "heed::blockwise_forward: mods are at most one mask(position) -> bool, and score_mod(score, position) "
                "-> score");
  if constexpr (element<S> && are_mods<S, Mods...>) {
    const checker check("blockwise_forward");
    check_queries(check, q, out, options.lse, options.sink, options.scale, options.softcap);
    check_positions(check, q.extent(2), 0, options.q_offset, options.kv_offset);
    check_window(check, options.window_left, options.window_right);
    check_aliasing(check, out, "out", q);
    check_aliasing(check, options.lse, "options.lse", q, out);

    const executor_ref where = resolve(options.executor);
    const scratch_block scratch(check, options.scratch, blockwise_bytes<A, S>(q, out.extent(3), where));
    scratch_cursor cursor(scratch.data());
    const softmax_state_memory<S, A> memory(cursor, q, out.extent(3), false, where);
    const softmax_state_rows<S> rows{
        {q, out, options.lse, options.sink, {}, options.scale.or_default(1 / std::sqrt(double(q.extent(3)))), {}},
        memory.states(out)};
    const auto chain = find_score_mods(options.softcap, mods...);
    const auto& mask = find_mask(mods...);
    using mask_type = std::remove_cvref_t<decltype(mask)>;
    clear_states(rows.states, where);
    index_t keys = 0, next = options.kv_offset;
    const bool finished = for_each_block<S>(blocks, [&](const key_value_block<S>& block) {
      check_keys(check, q, block.k, block.v, out, "block.k", "block.v");
      const index_t first = block.position.or_default(next);
      check_positions(check, q.extent(2), block.k.extent(2), options.q_offset, first);
      check_aliasing(check, out, "out", block.k, block.v);
      check_aliasing(check, options.lse, "options.lse", block.k, block.v);
      const softmax_segment_rows<accumulator_t<S>, dense_keys<S>, mask_type> segment{
          {block.k, block.v}, {options.window_left, options.window_right, mask}, options.q_offset, first, {}, 1};
      run_softmax<A>(check, rows, [&](const auto& f) { f(segment); }, false, chain, memory.work, where);
      keys += block.k.extent(2);
      next = first + block.k.extent(2);
      return options.progress.call == nullptr || options.progress.call(options.progress.object, keys);
    });
    finish_softmax<A>(check, rows, memory.work, where);
    return finished ? blockwise_status::finished : blockwise_status::cancelled;
  }
}

}  // namespace detail

/// Softmax attention of N queries over keys that come in blocks, each of which is forgotten after its turn: the result
/// of softmax_forward over all of them, with memory for one block of keys.
///
/// q    [B,H,N,D]  queries
/// blocks          where keys come from: callable as blocks(block) -> bool, which fills in a key_value_block<T> and answers
///                 true, or false if there are no more; or a range of key_value_block<T>. A block's tensors must hold
///                 still until the next call, and may have any number of rows
/// out  [B,H,N,E]  output; must not overlap q nor a block
/// options         see blockwise_options
/// mods            as in softmax_forward. Positions: of queries i + q_offset, of keys those of their block
///
/// Returns whether all blocks were read, or options.progress cancelled the call: out and lse are then those of the keys
/// that were read. What the callables throw passes through, and leaves out and lse unspecified.
///
/// Blocks that lie outside the windows and masks of some queries cost these queries nothing: a million tokens with a
/// window of 4096 cost what the window holds. Larger blocks save time, as states of queries come and go once a block:
/// with a window, take several times its length.
///
/// Legal edges: no blocks, blocks of no keys, N = 0, rows that see nothing (out = 0, lse = -inf).
/// Cost: that of softmax_forward, and 2 (E + 2) numbers moved a query for each block that it sees. Scratch: 2
/// accumulators a query and head, for 16-bit types E more, O(D + E) a worker (blockwise_forward_scratch_bytes):
/// options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads; not for other blocks. One block gives
/// softmax_forward's result, bit for bit.
/// Accuracy: as softmax_forward.
/// Throws heed::invalid_argument: all that softmax_forward throws for, before any write; for a block, when it comes.
/// Paper: Liu and Abbeel, Blockwise Parallel Transformer for Large Context Models, 2023; Rabe and Staats, Self-attention
/// Does Not Need O(n^2) Memory, 2021.
template <class Blocks, writable<4> Out, class... Mods>
blockwise_status blockwise_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q, Blocks&& blocks, Out&& out,
                                   const std::type_identity_t<blockwise_options<element_of_t<Out>>>& options = {},
                                   const Mods&... mods) {
  return detail::blockwise_forward_on<default_arch, element_of_t<Out>>(
      q, blocks, view_traits<std::remove_reference_t<Out>>::make(out), options, mods...);
}

HEED_ARCH_END
