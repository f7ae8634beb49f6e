/// The independent recurrences of a call, and their chunks.
#pragma once

#include <heed/core/sequence_offsets.hpp>
#include <heed/kernel/chunk_products.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// One recurrence: the tokens of one sequence that write to one state, and the query heads that read it.
struct recurrence_stream {
  index_t sequence, batch;
  index_t first_token, tokens;
  index_t state_head, kv_head, first_head, heads;
  /// Whether no stream before it writes with the same keys and values: states may belong to query heads.
  bool first_of_kv_head;
};

/// Where a token's row of a tensor [B,H,N,..] is, for tokens in the order of a stream.
template <class S>
row_span<S> stream_rows(const view<S, 4>& tensor, const recurrence_stream& stream, index_t head, index_t first,
                        bool reverse) noexcept {
  const index_t stride = tensor.stride(2);
  const index_t row = stream.first_token + (reverse ? stream.tokens - 1 - first : first);
  return {tensor.data() + stream.batch * tensor.stride(0) + head * tensor.stride(1) + row * stride,
          reverse ? -stride : stride};
}

/// Numbers the streams of a call. States belong to kv heads, or to query heads.
struct stream_numbering {
  index_t sequences, heads, kv_heads, states, tokens;
  sequence_offsets cu;

  index_t count() const noexcept { return sequences * states; }
  recurrence_stream at(index_t number) const noexcept {
    const index_t sequence = number / states, state = number % states;
    const index_t heads_of_state = heads / states, states_of_kv_head = states / kv_heads;
    recurrence_stream s{};
    s.sequence = s.batch = sequence;
    s.tokens = tokens;
    s.state_head = state;
    s.kv_head = state / states_of_kv_head;
    s.first_head = state * heads_of_state;
    s.heads = heads_of_state;
    s.first_of_kv_head = state % states_of_kv_head == 0;
    if (cu) {
      s.batch = 0;
      s.first_token = cu.at(sequence);
      s.tokens = cu.at(sequence + 1) - s.first_token;
    }
    return s;
  }
};

/// Tokens of one stream that are worked on together, counted in the stream's own order.
struct chunk_span {
  index_t first, count;
};

struct chunk_cuts {
  index_t tokens, size;

  index_t count() const noexcept { return (tokens + size - 1) / size; }
  chunk_span operator[](index_t number) const noexcept {
    return {number * size, std::min(size, tokens - number * size)};
  }
};

/// Rows of a chunk that are called ahead of the work on it: those that a state takes, with all that is prepared beside
/// them, those that read it, or both.
enum class rows_ahead { written, read, all };

}  // namespace detail
HEED_ARCH_END
