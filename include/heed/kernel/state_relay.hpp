/// Hands the states of a recurrence along ranks that hold consecutive parts of its sequences.
#pragma once

#include <heed/core/scratch.hpp>
#include <heed/kernel/ring_agreement.hpp>
#include <heed/kernel/ring_plan.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// Kv heads [first, end) of a batch entry, which are worked on together.
struct head_range {
  index_t batch, first, end;

  /// The entry of a tensor with `share` heads for each of them.
  template <class T, int Rank>
  view<T, Rank> of(const view<T, Rank>& tensor, index_t share = 1) const noexcept {
    if (!tensor) return tensor;
    return tensor.slice(0, batch, batch + 1).slice(1, first * share, end * share);
  }
};

/// The heads of a call in pieces, cut alike on all ranks. A rank starts when the state of the first piece has come to it,
/// so that of P ranks all are busy but for the time of P - 1 pieces.
class relay_pieces {
 public:
  relay_pieces(index_t batch, index_t heads, int ranks) noexcept : batch_(batch), heads_(heads) {
    const index_t wanted = pieces_of_rank * ranks;
    const index_t of_entry =
        batch == 0 ? 1 : std::clamp<index_t>((wanted + batch - 1) / batch, 1, std::max<index_t>(1, heads));
    size_ = std::max<index_t>(1, (heads + of_entry - 1) / of_entry);
  }

  index_t count() const noexcept { return batch_ * of_entry(); }
  head_range operator[](index_t i) const noexcept {
    const index_t first = i % of_entry() * size_;
    return {i / of_entry(), first, std::min(first + size_, heads_)};
  }

 private:
  static constexpr index_t pieces_of_rank = 8;

  index_t of_entry() const noexcept { return (heads_ + size_ - 1) / size_; }

  index_t batch_, heads_, size_;
};

/// Calls work(piece) for each piece: when the rank before has sent the states of its heads to `states`, and before they
/// go on to the rank after. A head has `numbers` of them.
template <class T, class Transport, class Work>
void relay_states(Transport& ranks, const relay_pieces& pieces, T* states, index_t heads, index_t numbers, int tag,
                  const Work& work) {
  const int rank = ranks.rank();
  const bool receives = rank > 0, sends = rank + 1 < ranks.size();
  const auto bytes_of = [&](index_t i) {
    const head_range piece = pieces[i];
    return view<std::byte, 1>(reinterpret_cast<std::byte*>(states + (piece.batch * heads + piece.first) * numbers),
                              {(piece.end - piece.first) * numbers * index_t(sizeof(T))});
  };
  typename Transport::request arriving, leaving[2];
  if (receives && pieces.count() > 0) arriving = ranks.irecv(bytes_of(0), rank - 1, tag);
  for (index_t i = 0; i < pieces.count(); ++i) {
    if (receives) {
      ranks.wait(arriving);
      if (i + 1 < pieces.count()) arriving = ranks.irecv(bytes_of(i + 1), rank - 1, tag);
    }
    work(pieces[i]);
    if (sends) {
      ranks.wait(leaving[i % 2]);
      leaving[i % 2] = ranks.isend(bytes_of(i), rank + 1, tag);
    }
  }
  if (sends) ranks.wait_all({leaving, {2}});
}

/// The states of a call: `heads` kv heads of `batch` entries, `numbers` for each.
struct relayed_states {
  index_t batch, heads, numbers;

  index_t size() const noexcept { return batch * heads * numbers; }
};

/// Scratch of a call of which each piece of heads needs bytes_of(piece).
template <class T, class BytesOf>
index_t state_relay_bytes(const relayed_states& x, int ranks, const BytesOf& bytes_of) noexcept {
  const relay_pieces pieces(x.batch, x.heads, ranks);
  index_t work = 0;
  for (index_t i = 0; i < pieces.count(); ++i) work = std::max(work, bytes_of(pieces[i]));
  scratch_cursor count(nullptr);
  count.take<T>(x.size());
  count.take<std::byte>(work);
  return scratch_total(count.used(), 1);
}

/// Calls work(piece, states, scratch) for each piece of heads, in memory of its own: states of all heads, of which those
/// of the piece have come from the rank before and go on as work leaves them.
template <class T, class Transport, class BytesOf, class Work>
void run_state_relay(const checker& check, Transport& ranks, const relayed_states& x, scratch_view scratch, int tag,
                     const BytesOf& bytes_of, const Work& work) {
  const scratch_block block(check, scratch, state_relay_bytes<T>(x, ranks.size(), bytes_of));
  scratch_cursor memory(block.data());
  T* const states = memory.take<T>(x.size());
  std::byte* const rest = memory.take<std::byte>(0);
  relay_states(ranks, relay_pieces(x.batch, x.heads, ranks.size()), states, x.heads, x.numbers, tag,
               [&](const head_range& piece) { work(piece, states, scratch_view{rest, bytes_of(piece)}); });
}

}  // namespace detail
HEED_ARCH_END
