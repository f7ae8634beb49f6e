/// Gradients of a chunk of a recurrence whose state has gates on one of its two sides.
///
/// A token writes Y_t on the gated side times y_t on the plain side, and reads with X_t or x_t:
///     R_t[l][f] = gate_t[f] R_{t-1}[l][f] + y_t[l] Y_t[f]
/// Gates on keys: Y = k, y = v, X = q, and x is the gradient that arrives at the output. Gates on values: the roles of
/// the sides change places. Either way, with P(j,t) the product of the gates of tokens j + 1 .. t,
///     A1[t][j] = sum_f X_t Y_j P(j,t)     A2[t][j] = x_t . y_j
///     dX_t = sum_l R_t x_t      dx_t = sum_f R_t X_t      dY_t = sum_l G_t y_t      dy_t = sum_f G_t Y_t
///     G_{t-1} = gate_t G_t, after G_t += x_t X_t
/// where dX and dx are gradients, or the output that is known already.
#pragma once

#include <heed/kernel/chunk_decay.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// What all products of one gated side share: gates and writes of a chunk.
template <class T, class A>
struct gated_writes {
  using P = pack<T, A>;

  gated_writes() = default;
  gated_writes(scratch_cursor& memory, index_t tokens, index_t of_features) noexcept
      : decay(memory, tokens, of_features),
        panels(take_panels<T, A>(memory, tokens, of_features)),
        features(of_features),
        tokens_(tokens),
        copies_(take_rows<T>(memory, tokens, of_features)),
        left_(take_rows<T>(memory, tokens, of_features)) {}

  /// Gates that keep everything.
  struct no_gates {
    P operator()(index_t, index_t, int) const noexcept { return P(T(1)); }
  };

  /// From rows Y and gate(t, i, some), for the state after the chunk.
  template <class S, class Gate>
  void prepare(row_span<const S> rows, index_t tokens, const Gate& gate) noexcept {
    count = tokens;
    if constexpr (std::is_same_v<Gate, no_gates>) {
      keep(rows);
    } else {
      decay.template multiply<A>(
          count, {0, features}, gate, typename chunk_decay<T>::nowhere{},
          [rows](index_t t, index_t i, int some, P product) { return load_some<T, A>(rows[t] + i, some) * product; });
      left = decay.after;
    }
  }
  /// The same for gradients too.
  template <class S, class Gate>
  void prepare_all(row_span<const S> rows, index_t tokens, const Gate& gate) noexcept {
    count = tokens;
    if constexpr (std::is_same_v<Gate, no_gates>) {
      keep(rows);
    } else {
      decay.template multiply<A>(count, {0, features}, gate);
      copy_rows<T, A>(rows, 0, count, features, left_,
                      [copies = copies_, after = decay.after](index_t t, index_t i, P x) {
                        x.store_aligned(copies[t] + i);
                        return x * P::load_aligned(after[t] + i);
                      });
      writes = copies_;
      left = left_;
    }
    transpose_rows<T, A>(left, count, panels, [&](index_t i) { return P(decay.inverse[i]); });
  }

  chunk_decay<T> decay;
  /// Y, and what the chunk leaves of it.
  row_span<const T> writes, left;
  row_panels<T> panels;
  index_t features = 0, count = 0;

 private:
  /// All products are 1, once and for all.
  template <class S>
  void keep(row_span<const S> rows) noexcept {
    if (!kept_) {
      kept_ = true;
      for (const row_span<T> products : {decay.until, decay.after})
        std::fill_n(products.data, tokens_ * products.stride, T(1));
      for (T* const product : {decay.total, decay.inverse})
        std::fill_n(product, conflict_free_pitch<T>(features), T(1));
    }
    writes = left = rows_for_vectors<T, A>(rows, 0, count, features, left_);
  }

  index_t tokens_ = 0;
  bool kept_ = false;
  row_span<T> copies_, left_;
};

/// One recurrence: its plain side, its reads, and its gradients. Rows are tokens.
template <class T, class A>
class gated_gradient {
 public:
  using P = pack<T, A>;

  gated_gradient() = default;
  gated_gradient(scratch_cursor& memory, index_t tokens, index_t gated, index_t plain) noexcept
      : plain_copies(take_rows<T>(memory, tokens, plain)),
        gated_reads(take_rows<T>(memory, tokens, gated)),
        plain_reads(take_rows<T>(memory, tokens, plain)),
        dgated_reads(take_rows<T>(memory, tokens, gated)),
        dplain_reads(take_rows<T>(memory, tokens, plain)),
        dgated_writes(take_rows<T>(memory, tokens, gated)),
        dplain_writes(take_rows<T>(memory, tokens, plain)),
        faded_(take_rows<T>(memory, tokens, gated)),
        seen_(take_rows<T>(memory, tokens, gated)),
        panels_(take_panels<T, A>(memory, tokens, plain)),
        gated_weights_(take_rows<T>(memory, tokens, tokens)),
        plain_weights_(take_rows<T>(memory, tokens, tokens)),
        transposed_(take_rows<T>(memory, gated, plain)),
        gated_(gated),
        plain_(plain) {
    // Products leave what is above their diagonal alone, and others read some of it.
    if (gated_weights_.data == nullptr) return;
    std::fill_n(gated_weights_.data, tokens * gated_weights_.stride, T(0));
    std::fill_n(plain_weights_.data, tokens * plain_weights_.stride, T(0));
  }

  index_t state_size() const noexcept { return plain_ * state_pitch(); }
  row_span<T> state(T* data) const noexcept { return {data, state_pitch()}; }
  row_span<const T> state(const T* data) const noexcept { return {data, state_pitch()}; }

  template <class S>
  void prepare(row_span<const S> rows, index_t count) noexcept {
    plain_writes = rows_for_vectors<T, A>(rows, 0, count, plain_, plain_copies);
  }

  /// The state after a chunk from the one before.
  void advance(const gated_writes<T, A>& gated, const T* from, T* to) noexcept {
    add_to_state(gated, plain_writes, gated.left, from, to, true);
  }

  /// Gradients of a chunk by its writes, and by its reads if they are wanted, of the query head whose reads were set;
  /// the first head of a state also passes on what comes from later chunks. `before` is the state before the chunk,
  /// `later` the gradient by the state after it, `earlier` becomes the gradient by the state before it.
  template <bool GatedReads, bool PlainReads, class Gate>
  void differentiate(const gated_writes<T, A>& gated, const Gate& gate, const T* before, const T* later, T* earlier,
                     bool first_head) noexcept {
    const index_range rows{0, gated.count}, gated_range{0, gated_}, plain_range{0, plain_};
    const auto& decay = gated.decay;
    const row_span<const T> weights = gated_weights_, plain_weights = plain_weights_, seen = seen_, left = gated.left;
    copy_rows<T, A>(row_span<const T>(gated_reads), 0, gated.count, gated_, seen_,
                    [until = decay.until](index_t t, index_t i, P x) { return x * P::load_aligned(until[t] + i); });
    if (first_head) transpose_rows<T, A>(plain_writes, gated.count, panels_, [](index_t) { return P(T(1)); });
    lower_products<T, A>(row_span<const T>(plain_reads), panels_, rows, plain_weights_, ahead);
    if (decay.mild)
      lower_products<T, A>(seen, gated.panels, rows, gated_weights_, ahead);
    else
      weigh_carefully(gated, gate);

    if constexpr (GatedReads) {
      const auto from_state = times(row_span<const T>(plain_reads), state(before), plain_);
      if (decay.mild)
        sum_products<T, A>(
            rows, gated_range, from_state, times_total(decay), times<band::lower>(plain_weights, left, gated.count),
            [&](index_t t, int v, P sum) {
              const index_t i = v * index_t(P::lanes);
              (sum * (decay.template until_at<A>(t, i) * P::load_aligned(decay.inverse + i)))
                  .store_aligned(dgated_reads[t] + i);
            },
            ahead);
      else
        read_carefully(gated, gate, from_state);
    }
    if constexpr (PlainReads) {
      transpose_state(state(before));
      sum_products<T, A>(
          rows, plain_range, times(seen, row_span<const T>(transposed_), gated_), same,
          times<band::lower>(weights, plain_writes, gated.count),
          [&](index_t t, int v, P sum) { sum.store_aligned(dplain_reads[t] + v * P::lanes); }, ahead);
    }

    differentiate_gated_writes(gated, gate, state(later), first_head);
    if (first_head) transpose_state(state(later));
    const auto from_later_reads = transposed_times<band::upper>(weights, row_span<const T>(plain_reads), gated.count);
    const auto emit = [&](index_t t, int v, P sum) { sum.store_aligned(dplain_writes[t] + v * P::lanes); };
    if (first_head)
      sum_products<T, A>(rows, plain_range, times(left, row_span<const T>(transposed_), gated_), same, from_later_reads,
                         emit, ahead);
    else
      sum_product<T, A>(
          rows, plain_range, [&](index_t t, int v) { return P::load_aligned(dplain_writes[t] + v * P::lanes); },
          from_later_reads, emit, ahead);
    add_to_state(gated, plain_reads, seen, first_head ? later : earlier, earlier, first_head);
  }

  /// Where all reads follow all writes: gradients by the reads of a head, from the last state, to whose gradient they
  /// add.
  void differentiate_reads(index_t count, const T* last, T* gradient) noexcept {
    sum_product<T, A>(
        index_range{0, count}, {0, gated_}, [](index_t, int) { return P(T(0)); },
        times(row_span<const T>(plain_reads), state(last), plain_),
        [&](index_t t, int v, P sum) { sum.store_aligned(dgated_reads[t] + v * P::lanes); }, ahead);
    sum_product<T, A>(
        {0, plain_}, {0, gated_}, [&](index_t l, int v) { return P::load_aligned(state(gradient)[l] + v * P::lanes); },
        transposed_times(row_span<const T>(plain_reads), row_span<const T>(gated_reads), count),
        [&](index_t l, int v, P sum) { sum.store_aligned(state(gradient)[l] + v * P::lanes); }, ahead);
  }
  /// The same of writes, which the last state holds as `gated` has them.
  void differentiate_writes(const gated_writes<T, A>& gated, const T* gradient) noexcept {
    const index_range rows{0, gated.count};
    const auto nothing = [](index_t, int) { return P(T(0)); };
    transpose_state(state(gradient));
    sum_product<T, A>(
        rows, {0, gated_}, nothing, times(plain_writes, state(gradient), plain_),
        [&](index_t t, int v, P sum) { sum.store_aligned(dgated_writes[t] + v * P::lanes); }, ahead);
    sum_product<T, A>(
        rows, {0, plain_}, nothing, times(gated.left, row_span<const T>(transposed_), gated_),
        [&](index_t t, int v, P sum) { sum.store_aligned(dplain_writes[t] + v * P::lanes); }, ahead);
  }

  /// rows[t][f] = sum over s >= t of rows[s][f] - Y_s[f] dY_s[f], plus sum_l R G after the chunk: gradients by the log
  /// gates, from rows X dX (of all query heads together).
  void differentiate_gates(const gated_writes<T, A>& gated, const T* after, const T* later,
                           row_span<T> rows) const noexcept {
    for (index_t i = 0; i < gated_; i += P::lanes) {
      P tail(T(0));
      for (index_t l = 0; l < plain_; ++l)
        tail = fma(P::load_aligned(state(after)[l] + i), P::load_aligned(state(later)[l] + i), tail);
      for (index_t t = gated.count - 1; t >= 0; --t) {
        tail += P::load_aligned(rows[t] + i);
        tail = fma(-P::load_aligned(gated.writes[t] + i), P::load_aligned(dgated_writes[t] + i), tail);
        tail.store_aligned(rows[t] + i);
      }
    }
  }

  /// What products call into the cache meanwhile.
  prefetcher ahead;
  /// y: of the caller, or copies.
  row_span<const T> plain_writes;
  row_span<T> plain_copies;
  /// X and x of a head, to be set before it is differentiated; whole vectors.
  row_span<T> gated_reads, plain_reads;
  /// Gradients by X and x of that head, and by Y and y of all heads so far.
  row_span<T> dgated_reads, dplain_reads, dgated_writes, dplain_writes;

 private:
  static constexpr auto same = [](index_t, int, P sum) { return sum; };
  static auto times_total(const chunk_decay<T>& decay) noexcept {
    return [&decay](index_t, int v, P sum) { return sum * P::load_aligned(decay.total + v * P::lanes); };
  }
  index_t state_pitch() const noexcept { return conflict_free_pitch<T>(gated_); }

  /// to = from, faded by the chunk if told so, + sum_t plain_t gated_t^T.
  void add_to_state(const gated_writes<T, A>& gated, row_span<const T> plain_rows, row_span<const T> gated_rows,
                    const T* from, T* to, bool fade) noexcept {
    sum_product<T, A>(
        {0, plain_}, {0, gated_},
        [&](index_t l, int v) {
          const P before = P::load_aligned(state(from)[l] + v * P::lanes);
          return fade ? without_negligible(before * P::load_aligned(gated.decay.total + v * P::lanes)) : before;
        },
        transposed_times(plain_rows, gated_rows, gated.count),
        [&](index_t l, int v, P sum) { sum.store_aligned(state(to)[l] + v * P::lanes); }, ahead);
  }

  void transpose_state(row_span<const T> from) noexcept {
    constexpr int width = P::lanes;
    for (index_t l = 0; l < plain_; l += width) {
      const int some = static_cast<int>(std::min<index_t>(width, plain_ - l));
      for (index_t f = 0; f < gated_; f += width) {
        P block[width];
        for (int i = 0; i < some; ++i) block[i] = P::load_aligned(from[l + i] + f);
        transpose(block);
        for (int i = 0; i < width && f + i < gated_; ++i) block[i].store_aligned(transposed_[f + i] + l);
      }
    }
  }

  template <class Gate>
  void differentiate_gated_writes(const gated_writes<T, A>& gated, const Gate& gate, row_span<const T> later,
                                  bool first_head) noexcept {
    const index_range rows{0, gated.count}, range{0, gated_};
    const auto& decay = gated.decay;
    const auto from_later_chunks = times(plain_writes, later, plain_);
    const row_span<const T> plain_weights = plain_weights_;
    if (decay.mild) {
      const auto from_later_reads = transposed_times<band::upper>(plain_weights, row_span<const T>(seen_), gated.count);
      const auto factor = [&](index_t t, index_t i) {
        return decay.template after_at<A>(t, i) * P::load_aligned(decay.inverse + i);
      };
      if (first_head)
        sum_products<T, A>(
            rows, range, from_later_chunks, times_total(decay), from_later_reads,
            [&](index_t t, int v, P sum) {
              const index_t i = v * index_t(P::lanes);
              (sum * factor(t, i)).store_aligned(dgated_writes[t] + i);
            },
            ahead);
      else
        sum_products<T, A>(
            rows, range, no_terms{}, same, from_later_reads,
            [&](index_t t, int v, P sum) {
              const index_t i = v * index_t(P::lanes);
              fma(sum, factor(t, i), P::load_aligned(dgated_writes[t] + i)).store_aligned(dgated_writes[t] + i);
            },
            ahead);
      return;
    }
    if (first_head)
      sum_products<T, A>(
          rows, range, from_later_chunks, same, no_terms{},
          [&](index_t t, int v, P sum) {
            const index_t i = v * index_t(P::lanes);
            (sum * decay.template after_at<A>(t, i)).store_aligned(dgated_writes[t] + i);
          },
          ahead);
    copy_rows<T, A>(row_span<const T>(gated_reads), 0, gated.count, gated_, faded_);
    decay_upward<T, A>(gated.count, gated_, faded_, gate, [&](index_t j) {
      for (index_t t = j; t < gated.count; ++t) add_scaled(plain_weights_[t][j], faded_[t], dgated_writes[j]);
    });
  }

  void add_scaled(T factor, const T* from, T* to) const noexcept {
    for (index_t i = 0; i < gated_; i += P::lanes)
      fma(P(factor), P::load_aligned(from + i), P::load_aligned(to + i)).store_aligned(to + i);
  }

  template <class Gate, class Visit>
  void fade_writes(const gated_writes<T, A>& gated, const Gate& gate, const Visit& visit) noexcept {
    copy_rows<T, A>(gated.writes, 0, gated.count, gated_, faded_);
    decay_downward<T, A>(gated.count, gated_, faded_, gate, visit);
  }

  template <class Gate>
  void weigh_carefully(const gated_writes<T, A>& gated, const Gate& gate) noexcept {
    fade_writes(gated, gate, [&](index_t t) {
      weigh_faded<T, A>(gated_reads[t], row_span<const T>(faded_), t, gated_, gated_weights_[t]);
    });
  }

  template <class Gate, class FromState>
  void read_carefully(const gated_writes<T, A>& gated, const Gate& gate, const FromState& from_state) noexcept {
    sum_products<T, A>(
        index_range{0, gated.count}, index_range{0, gated_}, from_state, same, no_terms{},
        [&](index_t t, int v, P sum) {
          const index_t i = v * index_t(P::lanes);
          (sum * gated.decay.template until_at<A>(t, i)).store_aligned(dgated_reads[t] + i);
        },
        ahead);
    fade_writes(gated, gate, [&](index_t t) {
      for (index_t j = 0; j <= t; ++j) add_scaled(plain_weights_[t][j], faded_[j], dgated_reads[t]);
    });
  }

  /// Rows that fade from token to token; X times the gates up to its token.
  row_span<T> faded_, seen_;
  row_panels<T> panels_;
  /// A1 and A2.
  row_span<T> gated_weights_, plain_weights_;
  row_span<T> transposed_;
  index_t gated_ = 0, plain_ = 0;
};

}  // namespace detail
HEED_ARCH_END
