/// What a backward call works on, how it is cut into tasks, and the sums that they leave.
#pragma once

#include <heed/kernel/softmax_rows.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// What a call asks of its queries; all of it checked. G: element type of the gradients by q, k and v.
template <class S, class G = S>
struct softmax_gradient_rows {
  using T = accumulator_t<S>;
  view<const S, 4> q;     // [B,H,N,D]
  view<const S, 4> out;   // [B,H,N,E]
  view<const T, 3> lse;   // [B,H,N]
  view<const S, 4> dout;  // [B,H,N,E]
  view<const T, 3> dlse;  // [B,H,N] or empty
  view<const T, 1> sink;  // [H] or empty
  view<const S, 4> bias;  // broadcast to [B,H,N,M], or empty
  view<G, 4> dq;          // [B,H,N,D]
  view<T, 1> dsink;       // [H] or empty
  view<S, 4> dbias;       // as the bias before it was broadcast, or empty
  double scale;
  sequence_offsets cu_q;

  index_t sequences() const noexcept { return cu_q ? cu_q.size() - 1 : q.extent(0); }
  sequence_span queries(index_t sequence) const noexcept { return span_of(cu_q, sequence, q.extent(2)); }
};

/// One set of keys, and where their gradients go.
template <class S, class Mask, class G = S>
struct softmax_gradient_segment {
  using T = accumulator_t<S>;
  softmax_segment_rows<accumulator_t<S>, dense_keys<S>, Mask> rows;
  view<G, 4> dk;             // [B,G,M,D], or [1,G,M,D] if all batch entries share the segment
  view<G, 4> dv;             // [B,G,M,E] or [1,G,M,E]
  view<T, 1> dlog_weight{};  // [H] or empty

  bool shared() const noexcept { return dk.extent(0) == 1 && rows.keys.k.extent(0) != 1; }
  /// Where the gradients of a sequence's keys lie in dk and dv.
  sequence_span keys(index_t sequence) const noexcept {
    const sequence_span span = rows.keys.span(sequence);
    return {shared() ? 0 : span.batch, span.first, span.count};
  }
};

/// How a call is cut, by shapes alone. A unit is a sequence and as few heads as share no key with others; its queries,
/// in groups of `shape::tiles` tiles, are dealt out to `parts` tasks, each of which adds up gradients of its own.
struct gradient_partition {
  index_t sequences, units, heads, parts;
  index_t group;  // query rows

  index_t tasks() const noexcept { return sequences * units * parts; }
  index_t groups(index_t queries) const noexcept { return (queries + group - 1) / group; }
  /// The parts that have anything to do, and the first in any case: it sets gradients to zero.
  index_t parts_of(index_t queries) const noexcept { return std::clamp<index_t>(heads * groups(queries), 1, parts); }
  /// Calls f(head of the unit, first query) for the groups of a part. Later queries come first, and the parts take
  /// turns in alternating order: under a causal mask all get as much to do.
  template <class F>
  void for_groups(index_t part, index_t queries, F f) const {
    const index_t of_head = groups(queries), all = heads * of_head;
    for (index_t round = 0; round * parts < all; ++round) {
      const index_t i = round * parts + (round % 2 == 0 ? part : parts - 1 - part);
      if (i < all) f(i / of_head, (of_head - 1 - i % of_head) * group);
    }
  }
};

/// Sums of gradients, one row a key: where a task adds to, in the accumulator's type.
template <class T>
struct gradient_target {
  T* dk;
  index_t dk_stride;
  T* dv;
  index_t dv_stride;
};

/// to[row] += factor * from[row]
template <class T, class A>
void add_rows(const T* from, index_t pitch, T factor, T* to, index_t stride, int count, index_t features) noexcept {
  using P = pack<T, A>;
  for (int j = 0; j < count; ++j) {
    const T* const x = from + j * pitch;
    T* const y = to + j * stride;
    index_t e = 0;
    for (; e + P::lanes <= features; e += P::lanes) fma(P(factor), P::load_aligned(x + e), P::load(y + e)).store(y + e);
    for (; e < features; ++e) y[e] += factor * x[e];
  }
}

/// to = (to, if `onto`) + the sum of `count` rows, `step` apart, in their order.
template <class T, class A, class S>
void sum_rows(const T* from, index_t step, index_t count, bool onto, S* to, index_t features) noexcept {
  using P = pack<T, A>;
  for (index_t e = 0; e < features; e += P::lanes) {
    const int some = static_cast<int>(std::min<index_t>(P::lanes, features - e));
    P sum = onto ? load_first_as<T, A>(to + e, some) : P(T(0));
    for (index_t i = 0; i < count; ++i) sum += P::load_aligned(from + i * step + e);
    if (some == P::lanes)
      store_as(to + e, sum);
    else
      store_first_as(to + e, sum, some);
  }
}

}  // namespace detail
HEED_ARCH_END
