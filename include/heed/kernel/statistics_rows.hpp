/// Statistics row by row: chosen query rows are cut into tiles, each of which walks over its keys in their order.
#pragma once

#include <heed/core/scratch.hpp>
#include <heed/kernel/statistics_call.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

HEED_ARCH_BEGIN
namespace detail {

/// Query rows of one head that stand one after the other in the list of chosen rows as in their sequence: `count`
/// of them, from entry `entry` of the list on.
struct chosen_rows {
  index_t batch, head, entry;
  int count;
  sequence_span keys;  // of their sequence
};

/// Rows of q that a call is about, in any order. An empty list stands for all that sequences own.
template <class Call>
class row_choice {
 public:
  row_choice(const Call& call, const integer_list& rows) noexcept
      : call_(call), rows_(rows), count_(rows.size() > 0 ? rows.size() : call.owned_queries()) {}

  index_t count() const noexcept { return count_; }
  index_t at(index_t entry) const noexcept { return rows_.size() > 0 ? rows_.at(entry) : entry; }

  /// The sequence that row `row` of batch entry `batch` belongs to.
  index_t sequence(index_t batch, index_t row) const noexcept {
    if (!call_.cu_q) return batch;
    index_t low = 0, high = call_.cu_q.size() - 2;
    while (low < high) {
      const index_t middle = (low + high + 1) / 2;
      if (call_.cu_q.at(middle) <= row)
        low = middle;
      else
        high = middle - 1;
    }
    return low;
  }

 private:
  const Call& call_;
  integer_list rows_;
  index_t count_;
};

/// Refuses rows that are none, or that no sequence owns.
template <class Call>
HEED_COLD void check_rows(const checker& check, const Call& call, const integer_list& rows) {
  const index_t limit = call.owned_queries();
  for (index_t i = 0; i < rows.size(); ++i)
    if (rows.at(i) < 0 || rows.at(i) >= limit) [[unlikely]]
      check.fail_with("rows", text("rows in [0, %lld)", static_cast<long long>(limit)).c_str(),
                      show(rows.at(i)).c_str());
}

/// Outputs [B,H,R,...] of chosen rows.
template <class Call, class T>
HEED_COLD void check_chosen_extents(const checker& check, const Call& call, const integer_list& rows,
                                    const view<T, 4>& output, const char* name) {
  check.extent(output, name, 0, call.q.extent(0), "B, as q");
  check.extent(output, name, 1, call.q.extent(1), "H, as q");
  if (rows.size() > 0)
    check.extent(output, name, 2, rows.size(), "R, as rows");
  else
    check.extent(output, name, 2, call.q.extent(2), "N, as q");
}

/// Scratch of one worker of run_rows.
template <class Emit, class S, class A>
struct row_workspace : statistics_workspace<S, A> {
  row_workspace(scratch_cursor& memory, index_t features, bool bias, const typename Emit::request& request) noexcept
      : statistics_workspace<S, A>(memory, features, bias), emit(memory, request) {}

  Emit emit;
};

template <class Emit, class S, class A>
index_t row_worker_bytes(index_t features, bool bias, const typename Emit::request& request) noexcept {
  scratch_cursor count(nullptr);
  row_workspace<Emit, S, A>(count, features, bias, request);
  return round_up(count.used(), cache_line);
}

/// Runs a checked call. A worker's `Emit` is told of some rows (begin), is handed their weights or logarithms in the
/// `form` it wants, part by part (take), and writes what it made of them (finish). Rows that see nothing are begun and
/// finished.
template <class A, class Emit, class Call>
void run_rows(const checker& check, const Call& call, const integer_list& list, const typename Emit::request& request,
              scratch_view scratch, const executor_ref& where) {
  using S = typename Call::storage_type;
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;
  constexpr T nothing = -std::numeric_limits<T>::infinity();
  const row_choice<Call> rows(call, list);
  const index_t features = call.q.extent(3), heads = call.q.extent(1);
  const index_t pieces = (rows.count() + shape::queries - 1) / shape::queries,
                tasks = call.q.extent(0) * heads * pieces;
  if (tasks == 0) return;
  const bool bias = static_cast<bool>(call.bias);
  const index_t share = row_worker_bytes<Emit, S, A>(features, bias, request);
  const scratch_block memory(check, scratch, scratch_total(share, where.concurrency));

  auto task = [&](index_t number, index_t worker) {
    scratch_cursor cursor(memory.data() + worker * share);
    row_workspace<Emit, S, A> space(cursor, features, bias, request);
    const index_t batch = number / pieces / heads, head = number / pieces % heads, piece = number % pieces;
    const index_t end = std::min(rows.count(), (piece + 1) * shape::queries);
    for (index_t entry = piece * shape::queries, next = entry; entry < end; entry = next) {
      const index_t row = rows.at(entry), sequence = rows.sequence(batch, row);
      const sequence_span queries = call.queries(sequence);
      const auto sees = [&](index_t i) { return call.lse(batch, head, i) != nothing; };
      const bool seeing = sees(row);
      for (++next; next < end; ++next) {
        const index_t other = row + (next - entry);
        if (rows.at(next) != other || other >= queries.first + queries.count || sees(other) != seeing) break;
      }
      const int count = static_cast<int>(next - entry);
      space.emit.begin(chosen_rows{batch, head, entry, count, call.keys(sequence)});
      if (seeing) {
        const query_rows at{static_cast<int>(sequence), static_cast<int>(head), row - queries.first, count};
        space.tile.load(&call.q(batch, head, row, 0), call.q.stride(2), &call.lse(batch, head, row), call.lse.stride(2),
                        count, call.factor());
        const auto m = call.template meet<A>(at);
        for_seen_blocks(m, count, 0, m.end, space.buffers, call.segment.mask,
                        [&](index_t block, const auto& keys, tile_place here, const T* added, bool partial) {
                          space.tile.weigh(keys, here, added, partial, Emit::form, call.segment.mask, call.chain,
                                           [&](const tile_part& part, const T* top) {
                                             space.emit.take(part, space.buffers.scores, top, m.first_key(block), here);
                                           });
                        });
      }
      space.emit.finish();
    }
  };
  for_each_task(where, tasks, task);
}

/// Writes weights as they are.
template <class T, class A>
class weight_writer {
 public:
  using request = view<T, 4>;  // [B,H,R,M]
  static constexpr weight_form form = weight_form::weights;

  weight_writer(scratch_cursor&, const request& to) noexcept : to_(to) {}

  void begin(const chosen_rows& at) noexcept {
    at_ = at;
    for (int i = 0; i < at.count; ++i) std::fill_n(row(i), to_.extent(3), T(0));
  }
  void take(const tile_part& part, const T* weights, const T*, index_t first_key, tile_place) noexcept {
    constexpr int width = lanes<T, A>, pitch = tile_shape<T, A>::queries;
    for (int g = part.low; g < part.high; ++g)
      store_transposed<pitch>(weights + part.first * pitch + g * width, part.count, pack<T, A>(T(1)),
                              row(g * width) + at_.keys.first + first_key + part.first, to_.stride(2),
                              std::min(width, at_.count - g * width));
  }
  void finish() noexcept {}

 private:
  T* row(int i) const noexcept {
    return to_.data() + at_.batch * to_.stride(0) + at_.head * to_.stride(1) + (at_.entry + i) * to_.stride(2);
  }

  request to_;
  chosen_rows at_{};
};

/// Keeps the largest weights of each row and their keys.
template <class T, class A>
class top_key_writer {
 public:
  struct request {
    view<T, 4> weights;             // [B,H,R,K]
    view<std::int32_t, 4> indices;  // [B,H,R,K]
  };
  static constexpr weight_form form = weight_form::logarithms;

  top_key_writer(scratch_cursor& memory, const request& to) noexcept
      : to_(to),
        most_(to.weights.extent(3)),
        least_(memory.take<T>(pitch)),
        held_(memory.take<index_t>(pitch)),
        values_(memory.take<T>(pitch * most_)),
        keys_(memory.take<std::int32_t>(pitch * most_)) {}

  void begin(const chosen_rows& at) noexcept {
    at_ = at;
    std::fill_n(held_, pitch, index_t(0));
    std::fill_n(least_, pitch, std::numeric_limits<T>::infinity());
    std::fill_n(least_, at.count, std::numeric_limits<T>::lowest());
  }
  void take(const tile_part& part, const T* logarithms, const T* top, index_t first_key, tile_place) noexcept {
    using P = pack<T, A>;
    for (int g = part.low; g < part.high; ++g) {
      if (!any(P::load_aligned(top + g * width) >= P::load_aligned(least_ + g * width))) continue;
      for (int j = part.first; j < part.first + part.count; ++j) {
        const T* const here = logarithms + j * pitch + g * width;
        if (!any(P::load_aligned(here) >= P::load_aligned(least_ + g * width))) continue;
        for (int i = 0; i < std::min(width, at_.count - g * width); ++i)
          if (here[i] >= least_[g * width + i])
            insert(g * width + i, here[i], static_cast<std::int32_t>(first_key + j));
      }
    }
  }
  void finish() noexcept {
    for (int i = 0; i < at_.count; ++i)
      for (index_t n = 0; n < most_; ++n) {
        const bool held = n < held_[i];
        to_.weights(at_.batch, at_.head, at_.entry + i, n) = held ? std::exp2(values_[i * most_ + n]) : T(0);
        to_.indices(at_.batch, at_.head, at_.entry + i, n) =
            held ? static_cast<std::int32_t>(at_.keys.first) + keys_[i * most_ + n] : -1;
      }
  }

 private:
  static constexpr int width = lanes<T, A>;
  static constexpr int pitch = tile_shape<T, A>::queries;

  /// Parts of a block may come in any order, so among equals the key decides.
  void insert(int lane, T value, std::int32_t key) noexcept {
    T* const values = values_ + lane * most_;
    std::int32_t* const keys = keys_ + lane * most_;
    index_t n = held_[lane];
    const auto before = [&](index_t other) {
      return value > values[other] || (value == values[other] && key < keys[other]);
    };
    if (n == most_) {
      if (!before(n - 1)) return;
      --n;
    } else {
      ++held_[lane];
    }
    for (; n > 0 && before(n - 1); --n) {
      values[n] = values[n - 1];
      keys[n] = keys[n - 1];
    }
    values[n] = value;
    keys[n] = key;
    if (held_[lane] == most_) least_[lane] = values[most_ - 1];
  }

  request to_;
  index_t most_;
  T* least_;            // [lane]: what a weight must reach to be kept
  index_t* held_;       // [lane]
  T* values_;           // [lane][K], descending
  std::int32_t* keys_;  // [lane][K]
  chosen_rows at_{};
};

/// Entropy, largest weight and mean distance of each row, with sums relative to the largest weight met so far.
template <class S, class A>
class row_statistics_writer {
 public:
  using T = accumulator_t<S>;
  using request = softmax_row_request<S>;
  static constexpr weight_form form = weight_form::logarithms;

  row_statistics_writer(scratch_cursor& memory, const request& to) noexcept
      : to_(to),
        top_(memory.take<T>(pitch)),
        sum_(memory.take<T>(pitch)),
        fall_(memory.take<T>(pitch)),
        distance_(memory.take<T>(pitch)),
        key_(memory.take<lane_int_t<T>>(pitch)) {}

  void begin(const chosen_rows& at) noexcept {
    at_ = at;
    std::fill_n(top_, pitch, nothing);
    std::fill_n(sum_, pitch, T(0));
    std::fill_n(fall_, pitch, T(0));
    std::fill_n(distance_, pitch, T(0));
    std::fill_n(key_, pitch, lane_int_t<T>(-1));
  }
  void take(const tile_part& part, const T* logarithms, const T* top_of_part, index_t first_key,
            tile_place place) noexcept {
    using P = pack<T, A>;
    using I = index_pack<T, A>;
    for (int g = part.low; g < part.high; ++g) {
      const int lane = g * width;
      P best = P::load_aligned(top_ + lane);
      const P top = max(P::load_aligned(top_of_part + lane), best);
      const P base = select(top == P(nothing), P(T(0)), top);
      // What the sums were relative to lies this far below; where there was nothing, they are 0.
      const P lowered = select(best == P(nothing), P(T(0)), best - base),
              factor = exp2_bounded<precision::weight>(lowered);
      P sum = P::load_aligned(sum_ + lane);
      P fall = factor * fma(lowered, sum, P::load_aligned(fall_ + lane));
      P distance = factor * P::load_aligned(distance_ + lane);
      sum *= factor;
      I key = I::load(key_ + lane);
      const I query = I::counting_from(place.query + lane);
      for (int j = part.first; j < part.first + part.count; ++j) {
        const P z = P::load_aligned(logarithms + j * pitch + lane), below = z - base;
        const P weight = exp2_bounded<precision::weight>(below);
        sum += weight;
        fall += select(weight == P(T(0)), P(T(0)), weight * below);
        distance = fma(weight, P(query - (place.key + j)), distance);
        // Parts of a block may come in any order, so among equals the key decides.
        const I here(first_key + j);
        const auto better = (z > best) | ((z == best) & (here < key));
        best = select(better, z, best);
        key = select(better, here, key);
      }
      top.store_aligned(top_ + lane);
      sum.store_aligned(sum_ + lane);
      fall.store_aligned(fall_ + lane);
      distance.store_aligned(distance_ + lane);
      key.store(key_ + lane);
    }
  }
  void finish() noexcept {
    for (int i = 0; i < at_.count; ++i) {
      const bool seen = sum_[i] != T(0);
      // A sum that is NaN has no largest weight.
      const T largest = seen ? (std::isnan(sum_[i]) ? sum_[i] : std::exp2(top_[i])) : T(0);
      const auto write = [&](const auto& to, auto value) {
        if (to) to(at_.batch, at_.head, at_.entry + i) = value;
      };
      write(to_.entropy, seen ? std::log(sum_[i]) - ln_2<T> * fall_[i] / sum_[i] : T(0));
      write(to_.max, largest);
      write(to_.argmax, key_[i] < 0 ? -1 : static_cast<std::int32_t>(at_.keys.first + key_[i]));
      write(to_.distance, largest * distance_[i]);
    }
  }

 private:
  static constexpr int width = lanes<T, A>;
  static constexpr int pitch = tile_shape<T, A>::queries;
  static constexpr T nothing = -std::numeric_limits<T>::infinity();

  request to_;
  T* top_;              // [lane] m: base-2 logarithm of the largest weight
  T* sum_;              // [lane] sum_j 2^(z_j - m)
  T* fall_;             // [lane] sum_j 2^(z_j - m) (z_j - m)
  T* distance_;         // [lane] sum_j 2^(z_j - m) (p - t_j)
  lane_int_t<T>* key_;  // [lane] of the largest weight, -1: none
  chosen_rows at_{};
};

}  // namespace detail
HEED_ARCH_END
