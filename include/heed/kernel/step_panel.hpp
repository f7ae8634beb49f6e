/// A panel of a few query rows of one kv head and its online softmax: the state (o, m, l) of split-KV decoding.
#pragma once

#include <heed/kernel/rows.hpp>
#include <heed/kernel/softmax_rows.hpp>
#include <heed/kernel/step_panels.hpp>

#include <algorithm>
#include <cmath>

HEED_ARCH_BEGIN
namespace detail {

/// Rows of queries against the keys of one part of the sequence, in base 2: references, sums and outputs [row][pitch]
/// of weights relative to them.
template <class T>
struct step_state {
  T* output;
  T* reference;
  T* sum;
  index_t pitch;
};

/// Query rows of a kv head that a task walks together: row `first` + r is that of head
/// `first_head` + (first + r) / queries and query (first + r) % queries.
struct step_rows {
  int sequence, first_head;
  int queries;
  int first, count;

  int head(int r) const noexcept { return first_head + (first + r) / queries; }
  int query(int r) const noexcept { return (first + r) % queries; }
  /// Rows from r on that are of one head, of at most `most`.
  int of_one_head(int r, int most) const noexcept { return std::min(most, queries - query(r)); }
};

/// Keys [first, first + count) of a source, and the positions of the first of them and of query 0. `plain`: their
/// products are logits already, and none is hidden.
struct step_block {
  index_t first;
  int count;
  int query, key;
  bool plain;
};

/// Makes the scores [key][row] of `Rows` rows weights relative to the references, which rise where scores do, and adds
/// them to the sums. Places behind the last key must hold -inf.
template <int Rows, class T, class A>
HEED_NOINLINE void weigh_scores(T* scores, int count, int vectors, const step_state<T>& state) noexcept {
  using P = pack<T, A>;
  constexpr T nothing = -std::numeric_limits<T>::infinity();
  const int length = static_cast<int>(round_up(count * Rows, P::lanes));
  alignas(64) T lane[P::lanes];
  P top(nothing);
  for (int i = 0; i < length; i += P::lanes) top = max(P::load_aligned(scores + i), top);
  top.store_aligned(lane);
  for (int r = 0; r < Rows; ++r) {
    T most = nothing;
    for (int i = r; i < P::lanes; i += Rows) most = std::max(most, lane[i]);
    T& m = state.reference[r];
    if (!(most > m)) continue;
    const T factor = std::exp2(m - most);
    m = most;
    state.sum[r] *= factor;
    T* const output = state.output + r * state.pitch;
    for (int v = 0; v < vectors; ++v)
      (P::load_aligned(output + v * P::lanes) * P(factor)).store_aligned(output + v * P::lanes);
  }
  for (int i = 0; i < P::lanes; ++i) lane[i] = state.reference[i % Rows] == nothing ? T(0) : state.reference[i % Rows];
  const P base = P::load_aligned(lane);
  P total(T(0));
  for (int i = 0; i < length; i += P::lanes) {
    const P weight = exp2_bounded<precision::weight>(P::load_aligned(scores + i) - base);
    total += weight;
    weight.store_aligned(scores + i);
  }
  total.store_aligned(lane);
  for (int i = 0; i < P::lanes; ++i) state.sum[i % Rows] += lane[i];
}

/// The product of weighted_sum_panel, leaving out pairs of weight 0.
template <int Rows, class T, class A, class S>
HEED_NOINLINE void weighted_sum_carefully(const T* weights, const S* values, index_t stride, int count, int vectors,
                                          T* sums, index_t pitch) noexcept {
  for (int j = 0; j < count; ++j)
    for (int r = 0; r < Rows; ++r)
      if (weights[j * Rows + r] != T(0)) {
        weighted_sum_panel<1, T, A>(weights + j * Rows + r, values + j * stride, stride, 1, values + j * stride,
                                    vectors, sums + r * pitch, pitch);
      }
}

/// Memory of a worker for its rows of queries and for one block of keys.
template <class T, class A>
struct step_workspace {
  using shape = step_shape<T, A>;
  static constexpr int pitch = tile_shape<T, A>::queries;

  step_workspace(scratch_cursor& memory, index_t features, index_t value_features, int rows, bool with_bias) noexcept
      : query_pitch(conflict_free_pitch<T>(features)),
        value_pitch(conflict_free_pitch<T>(value_features)),
        queries(memory.take<T>(rows * query_pitch)),
        scores(memory.take<T>(rows * scores_of_row)),
        copies(memory.take<T>(shape::converted * std::max(query_pitch, value_pitch))),
        tile(memory.take<T>(shape::keys * pitch)),
        bias(with_bias ? memory.take<T>(shape::keys * pitch) : nullptr) {}

  /// Scores of a panel take this times its rows.
  static constexpr int scores_of_row = shape::keys + shape::sums;

  index_t query_pitch, value_pitch;
  T* queries;  // [row][query_pitch], times scale
  T* scores;   // of each panel [key][row]
  T* copies;   // rows of keys or values as numbers
  T* tile;     // [key][lane] of the queries of one head, for softcap, bias, mods and mask
  T* bias;     // [key][lane]
};

/// Calls f(rows, stride, count, number of the first, ahead, scales) for rows [first, first + count), whose elements
/// fill whole vectors: where they are if they do, else as copies. `ahead` are the rows a block further, which memory
/// should be asked for, or the same.
template <class Which, class T, class A, class Source, class F>
HEED_INLINE void for_whole_rows(const Source& source, index_t first, int count, index_t features, T* copies,
                                index_t pitch, F f) {
  const auto for_runs_ahead = [&](auto get) {
    for (int done = 0; done < count;) {
      const auto run = get(first + done, count - done);
      const index_t next = first + done + step_shape<T, A>::keys;
      const auto* const ahead =
          next < source.count ? get(next, std::min(run.count, source.count - next)).data : run.data;
      row_scales scales;
      if constexpr (requires { run.scales; }) scales = run.scales;
      f(run.data, run.stride, static_cast<int>(run.count), done, ahead, scales);
      done += static_cast<int>(run.count);
    }
  };
  const bool whole = features % lanes<T, A> == 0;
  if constexpr (row_source<Source>) {
    if (whole) return for_runs_ahead([&](index_t row, index_t most) { return Which::run(source, row, most); });
  } else if constexpr (scaled_source<Source>) {
    if (whole && source.scaled())
      return for_runs_ahead([&](index_t row, index_t most) { return Which::scaled_run(source, row, most); });
  }
  constexpr int most = step_shape<T, A>::converted;
  for (int done = 0; done < count; done += most) {
    const int some = std::min(most, count - done);
    load_rows<Which, T, A>(source, first + done, some, features, copies, pitch);
    f(copies, pitch, some, done, copies, row_scales{});
  }
}

}  // namespace detail
HEED_ARCH_END
