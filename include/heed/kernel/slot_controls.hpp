/// Writes to slots that control logits ask for, as in Attention with Bounded-memory Control.
///
/// A slot holds the mean of what was written to it, weighted by exp(s_t). With z_t the log of the sum of these weights
/// so far, token t writes with the strength exp(s_t - z_t) = sigmoid(x_t), x_t = s_t - z_{t-1}, after a gate of
/// exp(z_{t-1} - z_t) = sigmoid(-x_t). A slot that was never written, z = -inf, has nothing to fade: its gate is 1.
#pragma once

#include <heed/kernel/chunk_decay.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Where the strengths and gates of slots are from: tensors, or logits.
enum class slot_writes { given, controlled };

/// A token's write to a vector of slots, given z before it.
template <class T, class A>
struct slot_control {
  using P = pack<T, A>;

  slot_control(P logit, P before) noexcept {
    const P never(-std::numeric_limits<T>::infinity());
    const P x = select(logit == never, never, logit - before);
    const P small = exp(-abs(x)), most = P(T(1)) / (P(T(1)) + small), least = decayed(small * most);
    strength = select(x < P(T(0)), least, most);
    gate = select(before == never, P(T(1)), select(x < P(T(0)), most, least));
    sum = max(logit, before) + log1p(small);
  }

  P strength, gate, sum;
};

/// The writes of a chunk, whole vectors of slots long.
template <class T>
struct controlled_writes {
  controlled_writes() = default;
  controlled_writes(scratch_cursor& memory, index_t tokens, index_t slots) noexcept
      : strengths(take_rows<T>(memory, tokens, slots)),
        gates(take_rows<T>(memory, tokens, slots)),
        sums(take_rows<T>(memory, 1, slots).data) {}

  /// From logits, and z before the chunk.
  template <class A>
  HEED_NOINLINE void prepare(row_span<const T> logits, index_t count, const T* before, index_range slots) noexcept {
    using P = pack<T, A>;
    for (index_t i = slots.low; i < slots.high; i += P::lanes) P::load_aligned(before + i).store_aligned(sums + i);
    for (index_t t = 0; t < count; ++t)
      for (index_t i = slots.low; i < slots.high; i += P::lanes) {
        const int some = static_cast<int>(std::min<index_t>(P::lanes, slots.high - i));
        const slot_control<T, A> write(load_some<T, A>(logits[t] + i, some), P::load_aligned(sums + i));
        write.strength.store_aligned(strengths[t] + i);
        write.gate.store_aligned(gates[t] + i);
        write.sum.store_aligned(sums + i);
        std::fill_n(strengths[t] + i + some, P::lanes - some, T(0));
        std::fill_n(gates[t] + i + some, P::lanes - some, T(1));
      }
  }

  template <class A>
  auto gate_rows() const noexcept {
    return [rows = gates](index_t t, index_t i, int) { return pack<T, A>::load_aligned(rows[t] + i); };
  }

  /// Gradients by strengths become those by logits, given those by log gates, and by z after the chunk; gives those by
  /// z before it. With c_t the gradient by z_t,  dx = w (a dw - dg),  ds = dx + w c_t,  c_{t-1} = a c_t - dx.
  template <class A>
  HEED_NOINLINE void differentiate(row_span<T> dstrengths, row_span<const T> dgates, index_t count, index_t slots,
                                   const T* later, T* earlier) const noexcept {
    using P = pack<T, A>;
    for (index_t i = 0; i < slots; i += P::lanes) {
      P carry = P::load_aligned(later + i);
      for (index_t t = count - 1; t >= 0; --t) {
        const P w = P::load_aligned(strengths[t] + i), a = P::load_aligned(gates[t] + i);
        // Both are 1 at the first write to a slot alone: what its logit is does not matter, nor what z was.
        const auto first = w + a > P(T(1.5));
        const P through = w * fma(a, P::load_aligned(dstrengths[t] + i), -P::load_aligned(dgates[t] + i));
        const P dx = select(first, P(T(0)), through);
        fma(w, carry, dx).store_aligned(dstrengths[t] + i);
        carry = select(first, P(T(0)), fma(a, carry, -dx));
      }
      carry.store_aligned(earlier + i);
    }
  }

  row_span<T> strengths, gates;
  /// [slot]: z after the chunk.
  T* sums = nullptr;
};

}  // namespace detail
HEED_ARCH_END
