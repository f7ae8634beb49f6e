/// Runs a checked backward call of the softmax family: cuts it into tasks that own the gradients of some keys, and adds
/// up what several tasks have for the same keys.
#pragma once

#include <heed/kernel/gradient_tile.hpp>
#include <heed/kernel/softmax_run.hpp>
#include <heed/kernel/softmax_walk.hpp>

#include <numeric>
#include <optional>

HEED_ARCH_BEGIN
namespace detail {

/// What a call asks of its queries; all of it checked.
template <class S>
struct softmax_gradient_rows {
  using T = accumulator_t<S>;
  view<const S, 4> q;     // [B,H,N,D]
  view<const S, 4> out;   // [B,H,N,E]
  view<const T, 3> lse;   // [B,H,N]
  view<const S, 4> dout;  // [B,H,N,E]
  view<const T, 3> dlse;  // [B,H,N] or empty
  view<const T, 1> sink;  // [H] or empty
  view<const S, 4> bias;  // broadcast to [B,H,N,M], or empty
  view<S, 4> dq;          // [B,H,N,D]
  view<T, 1> dsink;       // [H] or empty
  view<S, 4> dbias;       // as the bias before it was broadcast, or empty
  double scale;
  sequence_offsets cu_q;

  index_t sequences() const noexcept { return cu_q ? cu_q.size() - 1 : q.extent(0); }
  index_t batch(index_t sequence) const noexcept { return cu_q ? 0 : sequence; }
  index_t first_query(index_t sequence) const noexcept { return cu_q ? cu_q.at(sequence) : 0; }
  index_t queries(index_t sequence) const noexcept {
    return cu_q ? cu_q.at(sequence + 1) - cu_q.at(sequence) : q.extent(2);
  }
};

/// One set of keys, and where their gradients go.
template <class S, class Mask>
struct softmax_gradient_segment {
  softmax_segment_rows<S, Mask> rows;
  view<S, 4> dk;  // [B,G,M,D], or [1,G,M,D] if all batch entries share the segment
  view<S, 4> dv;  // [B,G,M,E] or [1,G,M,E]

  bool shared() const noexcept { return dk.extent(0) == 1 && rows.k.extent(0) != 1; }
  index_t first_key(index_t sequence) const noexcept { return rows.cu_k ? rows.cu_k.at(sequence) : 0; }
  index_t keys(index_t sequence) const noexcept {
    return rows.cu_k ? rows.cu_k.at(sequence + 1) - rows.cu_k.at(sequence) : rows.k.extent(2);
  }
  index_t batch(index_t sequence) const noexcept { return rows.cu_k || shared() ? 0 : sequence; }
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

/// Scratch of one worker.
template <class S, class A>
struct gradient_workspace {
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;
  gradient_workspace(scratch_cursor& memory, index_t features, index_t value_features, bool bias, bool by_bias,
                     index_t rows) noexcept
      : buffers(memory, features, value_features, !std::is_same_v<S, T>, bias) {
    for (auto& tile : tiles) tile = gradient_tile<T, A>(memory, buffers);
    sums = memory.take<T>(rows);
    bias_sums = by_bias ? memory.take<T>(shape::keys * shape::queries) : nullptr;
  }
  gradient_workspace(const gradient_workspace&) = delete;
  gradient_workspace& operator=(const gradient_workspace&) = delete;

  gradient_buffers<T, A> buffers;
  gradient_tile<T, A> tiles[shape::tiles];
  T* sums;       // gradients of all keys of a unit, where outputs are of another type and no other task adds to them
  T* bias_sums;  // [key][lane]
};

/// A call in progress.
template <class A, class S, class ForEachSegment, class... Mods>
class softmax_backward_run {
 public:
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;

  /// `for_each_segment(f)` calls f(softmax_gradient_segment) for every segment, in order.
  softmax_backward_run(const softmax_gradient_rows<S>& rows, const ForEachSegment& for_each_segment,
                       const score_chain<Mods...>& chain) noexcept
      : rows_(rows),
        for_each_segment_(for_each_segment),
        chain_(chain),
        features_(rows.q.extent(3)),
        value_features_(rows.out.extent(3)),
        key_pitch_(round_up(features_, row_unit)),
        row_pitch_(key_pitch_ + round_up(value_features_, row_unit)) {
    const index_t heads = rows.q.extent(1), sequences = rows.sequences();
    index_t units = heads, most_queries = 0, rows_of_part = 0;
    for_each_segment([&](const auto& segment) {
      units = std::gcd(units, segment.rows.k.extent(1));
      rows_of_part += segment.rows.k.extent(0) * segment.rows.k.extent(1) * segment.rows.k.extent(2);
    });
    for (index_t s = 0; s < sequences; ++s) most_queries = std::max(most_queries, rows.queries(s));
    partition_ = {sequences, units, units == 0 ? 0 : heads / units, 1, index_t(shape::tiles) * shape::queries};
    if (sequences * units == 0) return;
    const index_t wanted = (enough_tasks + sequences * units - 1) / (sequences * units);
    const index_t affordable =
        std::max<index_t>(2, most_partial_sums / std::max<index_t>(1, rows_of_part * row_pitch_));
    partition_.parts =
        std::max<index_t>(1, std::min({wanted, affordable, partition_.heads * partition_.groups(most_queries)}));
  }

  index_t bytes(const executor_ref& where) const noexcept {
    return scratch_total(worker_bytes(), where.concurrency) + shared_bytes();
  }

  void run(const checker& check, scratch_view scratch, const executor_ref& where) {
    const index_t share = worker_bytes();
    const scratch_block memory(check, scratch, bytes(where));
    std::byte* const shared = memory.data() + share * where.concurrency;
    double* const parameter_sums = reinterpret_cast<double*>(shared + shared_bytes() - parameter_bytes());
    auto task = [&](index_t number, index_t worker) {
      gradient_workspace<S, A> space = space_at(memory.data() + worker * share);
      double* const sums = parameter_sums + number * parameters;
      std::fill_n(sums, parameters, 0.0);
      differentiate(space, number, shared, sums);
    };
    for_each_task(where, partition_.tasks(), task);

    index_t sums = 0;
    for_each_segment_([&](const auto& segment) {
      if (bytes_of(segment) > 0 || segment.shared()) {
        const T* const from = reinterpret_cast<const T*>(shared + sums);
        auto add = [&](index_t number, index_t) { add_up(segment, from, number); };
        for_each_task(where, segment.rows.k.extent(1) * pieces_of_head, add);
      }
      sums += bytes_of(segment);
    });
    write_parameter_gradients(parameter_sums);
    accumulate<0>(where, memory.data(), share);
    if (rows_.dbias) {
      const bias_owners owners(rows_);
      auto of_owner = [&](index_t number, index_t worker) {
        gradient_workspace<S, A> space = space_at(memory.data() + worker * share);
        for_each_segment_([&](const auto& segment) { differentiate_bias(space, owners.at(number), segment); });
      };
      for_each_task(where, owners.count(), of_owner);
    }
    if (rows_.dsink) {
      auto of_head = [&](index_t head, index_t) { rows_.dsink[head] = sink_gradient(static_cast<int>(head)); };
      for_each_task(where, rows_.q.extent(1), of_head);
    }
  }

 private:
  static constexpr bool same_type = std::is_same_v<S, T>;
  static constexpr int parameters = score_chain<Mods...>::parameters;
  /// Elements; rows of sums are aligned.
  static constexpr index_t row_unit = cache_line / index_t(sizeof(T));
  /// So that many workers have something to do where there are few heads.
  static constexpr index_t enough_tasks = 16;
  /// Elements of all partial sums together.
  static constexpr index_t most_partial_sums = index_t(1) << 24;
  static constexpr index_t pieces_of_head = 8;

  /// Of one worker, and of the sums that tasks leave to be added up.
  index_t worker_bytes() const noexcept {
    scratch_cursor count(nullptr);
    gradient_workspace<S, A>(count, features_, value_features_, static_cast<bool>(rows_.bias),
                             static_cast<bool>(rows_.dbias), own_rows() * row_pitch_);
    return round_up(count.used(), cache_line);
  }
  index_t shared_bytes() const noexcept {
    index_t bytes = 0;
    for_each_segment_([&](const auto& segment) { bytes += bytes_of(segment); });
    return bytes + parameter_bytes();
  }

  /// Partial sums of a segment that parts of one unit, and if it is shared those of all sequences, leave behind. The
  /// first part of a unit adds to the outputs themselves, if their type allows.
  template <class Segment>
  index_t slots_of(const Segment& segment) const noexcept {
    if (segment.shared()) return partition_.sequences * partition_.parts;
    return partition_.parts == 1 ? 0 : partition_.parts - (same_type ? 1 : 0);
  }
  template <class Segment>
  index_t bytes_of(const Segment& segment) const noexcept {
    return slots_of(segment) * segment.dk.extent(0) * segment.rows.k.extent(1) * segment.rows.k.extent(2) * row_pitch_ *
           index_t(sizeof(T));
  }

  /// Of the gradients by what score mods learn, one set a task.
  index_t parameter_bytes() const noexcept {
    return round_up(partition_.tasks() * parameters * index_t(sizeof(double)), cache_line);
  }

  /// Rows of the sums of a unit that has them to itself.
  index_t own_rows() const noexcept {
    index_t most = 0;
    if (same_type || partition_.parts > 1) return 0;
    for (index_t s = 0; s < partition_.sequences; ++s) {
      index_t rows = 0;
      for_each_segment_([&](const auto& segment) {
        if (!segment.shared()) rows += segment.keys(s) * (segment.rows.k.extent(1) / partition_.units);
      });
      most = std::max(most, rows);
    }
    return most;
  }

  gradient_target<T> target_of(T* rows) const noexcept { return {rows, row_pitch_, rows + key_pitch_, row_pitch_}; }

  /// Calls f(segment, kv head, target) for the keys of a unit. `shared`: partial sums; `own`: those of the unit.
  template <class F>
  void for_targets(index_t sequence, index_t unit, index_t part, std::byte* shared, T* own, F f) const {
    for_each_segment_([&](const auto& segment) {
      const index_t groups = segment.rows.k.extent(1), keys = segment.keys(sequence);
      const index_t first = segment.first_key(sequence), batch = segment.batch(sequence);
      for (index_t g = unit * (groups / partition_.units); g < (unit + 1) * (groups / partition_.units); ++g) {
        const index_t slot = segment.shared() ? sequence * partition_.parts + part : part - (same_type ? 1 : 0);
        if (keys == 0) {
          f(segment, g, gradient_target<T>{});
        } else if (slots_of(segment) > 0 && slot >= 0) {
          const index_t row = ((slot * segment.dk.extent(0) + batch) * groups + g) * segment.rows.k.extent(2) + first;
          f(segment, g, target_of(reinterpret_cast<T*>(shared) + row * row_pitch_));
        } else if constexpr (same_type) {
          f(segment, g,
            gradient_target<T>{&segment.dk(batch, g, first, 0), segment.dk.stride(2), &segment.dv(batch, g, first, 0),
                               segment.dv.stride(2)});
        } else {
          f(segment, g, target_of(own));
          own += keys * row_pitch_;
        }
      }
      shared += bytes_of(segment);
    });
  }

  void differentiate(gradient_workspace<S, A>& space, index_t number, std::byte* shared, double* parameter_sums) const {
    const index_t part = number % partition_.parts, unit = number / partition_.parts % partition_.units;
    const index_t sequence = number / (partition_.parts * partition_.units), queries = rows_.queries(sequence);
    if (part >= partition_.parts_of(queries)) return;
    for_targets(sequence, unit, part, shared, space.sums,
                [&](const auto& segment, index_t, const gradient_target<T>& target) {
                  for (index_t j = 0; j < segment.keys(sequence); ++j) {
                    std::fill_n(target.dk + j * target.dk_stride, features_, T(0));
                    std::fill_n(target.dv + j * target.dv_stride, value_features_, T(0));
                  }
                });
    partition_.for_groups(part, queries, [&](index_t head_of_unit, index_t first) {
      const index_t head = unit * partition_.heads + head_of_unit;
      const query_rows at{static_cast<int>(sequence), static_cast<int>(head), first,
                          static_cast<int>(std::min(partition_.group, queries - first))};
      differentiate_queries(space, at, unit, part, shared, parameter_sums);
    });
    if constexpr (!same_type) {
      if (partition_.parts > 1) return;
      for_targets(sequence, unit, part, shared, space.sums,
                  [&](const auto& segment, index_t g, const gradient_target<T>& target) {
                    if (segment.shared()) return;
                    const index_t to = segment.first_key(sequence), batch = segment.batch(sequence);
                    for (index_t j = 0; j < segment.keys(sequence); ++j) {
                      sum_rows<T, A>(target.dk + j * target.dk_stride, 0, 1, false, &segment.dk(batch, g, to + j, 0),
                                     features_);
                      sum_rows<T, A>(target.dv + j * target.dv_stride, 0, 1, false, &segment.dv(batch, g, to + j, 0),
                                     value_features_);
                    }
                  });
    }
  }

  /// A group of query tiles against all their keys.
  void differentiate_queries(gradient_workspace<S, A>& space, const query_rows& at, index_t unit, index_t part,
                             std::byte* shared, double* parameter_sums) const {
    const index_t batch = rows_.batch(at.sequence), row = rows_.first_query(at.sequence) + at.first;
    const int tile_count = (at.count + shape::queries - 1) / shape::queries;
    for (int i = 0; i < tile_count; ++i)
      load_tile(space.tiles[i], at.sequence, at.head, at.first + i * shape::queries,
                std::min(shape::queries, at.count - i * shape::queries));
    for_targets(at.sequence, unit, part, shared, space.sums,
                [&](const auto& segment, index_t group, const gradient_target<T>& target) {
                  if (at.head / (rows_.q.extent(1) / segment.rows.k.extent(1)) == group)
                    visit_keys(space, tile_count, at, segment, group, target, parameter_sums);
                });
    for (int i = 0; i < tile_count; ++i)
      space.tiles[i].store(&rows_.dq(batch, at.head, row + i * shape::queries, 0), rows_.dq.stride(2),
                           static_cast<T>(rows_.scale));
  }

  gradient_workspace<S, A> space_at(std::byte* memory) const noexcept {
    scratch_cursor cursor(memory);
    return {cursor,
            features_,
            value_features_,
            static_cast<bool>(rows_.bias),
            static_cast<bool>(rows_.dbias),
            own_rows() * row_pitch_};
  }

  void load_tile(gradient_tile<T, A>& tile, index_t sequence, index_t head, index_t first, int count) const noexcept {
    const index_t batch = rows_.batch(sequence), row = rows_.first_query(sequence) + first;
    tile.load(gradient_tile_rows<S>{&rows_.q(batch, head, row, 0), rows_.q.stride(2), &rows_.out(batch, head, row, 0),
                                    rows_.out.stride(2), &rows_.dout(batch, head, row, 0), rows_.dout.stride(2),
                                    &rows_.lse(batch, head, row), rows_.lse.stride(2),
                                    rows_.dlse ? &rows_.dlse(batch, head, row) : nullptr, rows_.dlse.stride(2)},
              count, static_cast<T>(chain_.plain() ? rows_.scale * double(log2_e<T>) : rows_.scale));
  }

  /// Where some queries meet the keys of a segment: positions, and the blocks that the mask may show them.
  struct meeting {
    dense_source<S> source;
    bias_rows<S> bias;
    tile_place place;
    int kv_offset;
    index_t begin, end;
    T log_weight2;
  };
  template <class Segment>
  meeting meet(const query_rows& at, const Segment& segment, index_t group) const {
    constexpr index_t keys = shape::keys;
    meeting m{source_of(segment.rows, at.sequence, group),
              {},
              {},
              static_cast<int>(segment.rows.kv_offset),
              0,
              0,
              segment.rows.log_weight ? segment.rows.log_weight[at.head] * log2_e<T> : T(0)};
    if (m.source.count == 0 || m.log_weight2 == -std::numeric_limits<T>::infinity()) return m;
    if (rows_.bias) m.bias = {&rows_.bias(at.sequence, at.head, 0, 0), rows_.bias.stride(2), rows_.bias.stride(3)};
    const index_t q_offset = segment.rows.q_offset.or_default(m.source.count - rows_.queries(at.sequence));
    m.place = {at.sequence, at.head, static_cast<int>(at.first + q_offset), 0};
    const key_range range = segment.rows.mask.keys(at.sequence, at.head, m.place.query, m.place.query + at.count);
    m.begin = std::max<index_t>(0, index_t(range.begin) - m.kv_offset) / keys;
    m.end = (std::min<index_t>(m.source.count, index_t(range.end) - m.kv_offset) + keys - 1) / keys;
    return m;
  }

  /// What one task does for the gradient of a bias: elements of these batch entries, heads, tiles of queries and blocks
  /// of keys. Over an axis that is broadcast it sums.
  struct bias_part {
    struct range {
      index_t begin, end;
    };
    range entries, heads, tiles, blocks;
  };

  /// Cuts a bias into parts that no two tasks have in common: one entry, head, tile and block each of axes that are not
  /// broadcast. Where nothing is summed over but perhaps keys, all blocks stay together.
  class bias_owners {
   public:
    explicit bias_owners(const softmax_gradient_rows<S>& rows) noexcept {
      const index_t all[4] = {rows.q.extent(0), rows.q.extent(1),
                              (rows.q.extent(2) + shape::queries - 1) / shape::queries,
                              (rows.bias.extent(3) + shape::keys - 1) / shape::keys};
      bool sums = false;
      for (int axis = 0; axis < 4; ++axis) {
        all_[axis] = all[axis];
        const bool own = rows.dbias.extent(axis) != 1 && (axis < 3 || sums);
        parts_[axis] = own ? all[axis] : 1;
        sums = sums || (!own && all[axis] > 1);
      }
    }

    index_t count() const noexcept { return parts_[0] * parts_[1] * parts_[2] * parts_[3]; }
    bias_part at(index_t number) const noexcept {
      typename bias_part::range ranges[4];
      for (int axis = 3; axis >= 0; --axis) {
        const index_t i = number % parts_[axis];
        ranges[axis] = {all_[axis] * i / parts_[axis], all_[axis] * (i + 1) / parts_[axis]};
        number /= parts_[axis];
      }
      return {ranges[0], ranges[1], ranges[2], ranges[3]};
    }

   private:
    index_t all_[4], parts_[4];
  };

  template <class Segment>
  void differentiate_bias(gradient_workspace<S, A>& space, const bias_part& part, const Segment& segment) const {
    const bool alone = part.entries.end - part.entries.begin == 1 && part.heads.end - part.heads.begin == 1 &&
                       part.tiles.end - part.tiles.begin == 1;
    bool loaded = false;
    const auto sum_up = [&](index_t first_block, index_t last_block) {
      std::fill_n(space.bias_sums, shape::keys * shape::queries, T(0));
      for (index_t b = part.entries.begin; b < part.entries.end; ++b)
        for (index_t h = part.heads.begin; h < part.heads.end; ++h)
          for (index_t t = part.tiles.begin; t < part.tiles.end; ++t) {
            const index_t first = t * shape::queries;
            const query_rows at{static_cast<int>(b), static_cast<int>(h), first,
                                static_cast<int>(std::min<index_t>(shape::queries, rows_.q.extent(2) - first))};
            if (!(alone && loaded)) load_tile(space.tiles[0], b, h, first, at.count);
            loaded = true;
            add_bias_gradients(space, at, segment, first_block, last_block);
          }
    };
    if (rows_.dbias.extent(3) == 1) {
      sum_up(part.blocks.begin, part.blocks.end);
      store_bias_gradients(space.bias_sums, part, 0);
      return;
    }
    for (index_t block = part.blocks.begin; block < part.blocks.end; ++block) {
      sum_up(block, block + 1);
      store_bias_gradients(space.bias_sums, part, block);
    }
  }

  /// Calls use(place, part) for the parts of key blocks [first_block, last_block) that the loaded tile sees, while
  /// their gradients are in the buffers, as gradient_tile::differentiate_logits leaves them.
  template <int First, class Segment, class Use>
  void visit_logits(gradient_workspace<S, A>& space, const query_rows& at, const Segment& segment, index_t first_block,
                    index_t last_block, Use use) const {
    constexpr index_t keys = shape::keys;
    gradient_buffers<T, A>& buffers = space.buffers;
    const meeting m = meet(at, segment, at.head / (rows_.q.extent(1) / segment.rows.k.extent(1)));
    for (index_t number = std::max(first_block, m.begin); number < std::min(last_block, m.end); ++number) {
      const index_t first = number * keys;
      const int count = static_cast<int>(std::min(keys, m.source.count - first));
      tile_place here = m.place;
      here.key = static_cast<int>(first) + m.kv_offset;
      const tile_class seen =
          segment.rows.mask.classify(here.b, here.h, here.query, here.query + at.count, here.key, here.key + count);
      if (seen == tile_class::empty) continue;
      const key_block<dense_source<S>, T, A> block(m.source, first, count, buffers);
      if (m.bias.data != nullptr) load_bias<T, A>(m.bias, at.first, at.count, first, count, buffers.bias);
      space.tiles[0].template differentiate_logits<First>(block, here, m.bias.data != nullptr ? buffers.bias : nullptr,
                                                          m.log_weight2, seen == tile_class::partial, segment.rows.mask,
                                                          chain_, [&](tile_part part) { use(here, part); });
    }
  }

  /// bias_sums[key][lane] += the gradients that the loaded tile has for the keys of each block.
  template <class Segment>
  void add_bias_gradients(gradient_workspace<S, A>& space, const query_rows& at, const Segment& segment,
                          index_t first_block, index_t last_block) const {
    using P = pack<T, A>;
    visit_logits<0>(space, at, segment, first_block, last_block, [&](tile_place, tile_part part) {
      for (int j = part.first; j < part.first + part.count; ++j)
        for (int g = part.low; g < part.high; ++g) {
          const index_t here = j * shape::queries + g * shape::width;
          (P::load_aligned(space.bias_sums + here) + P::load_aligned(space.buffers.gradients + here))
              .store_aligned(space.bias_sums + here);
        }
    });
  }

  /// Lets score mod I and those after it accumulate what they want of the gradients by their results.
  template <std::size_t I>
  void accumulate(const executor_ref& where, std::byte* memory, index_t share) const {
    if constexpr (I < sizeof...(Mods)) {
      const auto& mod = std::get<I>(chain_.mods);
      if constexpr (accumulating_score<std::remove_cvref_t<decltype(mod)>, T>) {
        const index_t heads = rows_.q.extent(1);
        const bool together = one_head_at_a_time(mod);
        auto of_heads = [&](index_t number, index_t worker) {
          gradient_workspace<S, A> space = space_at(memory + worker * share);
          for (index_t h = together ? 0 : number; h < (together ? heads : number + 1); ++h)
            accumulate_head<static_cast<int>(I)>(space, static_cast<int>(h), mod);
        };
        if (accumulates(mod)) for_each_task(where, together ? 1 : heads, of_heads);
      }
      accumulate<I + 1>(where, memory, share);
    }
  }

  template <int I, class Mod>
  void accumulate_head(gradient_workspace<S, A>& space, int head, const Mod& mod) const {
    for (index_t s = 0; s < partition_.sequences; ++s)
      for (index_t first = 0; first < rows_.queries(s); first += shape::queries) {
        const query_rows at{static_cast<int>(s), head, first,
                            static_cast<int>(std::min<index_t>(shape::queries, rows_.queries(s) - first))};
        load_tile(space.tiles[0], s, head, first, at.count);
        for_each_segment_([&](const auto& segment) {
          visit_logits<I + 1>(space, at, segment, 0, segment.keys(s), [&](tile_place place, tile_part part) {
            for (int j = part.first; j < part.first + part.count; ++j)
              for (int lane = part.low * shape::width; lane < std::min(at.count, part.high * shape::width); ++lane) {
                const T gradient = space.buffers.gradients[j * shape::queries + lane];
                if (gradient == T(0)) continue;
                mod.accumulate(gradient, space.buffers.scores[j * shape::queries + lane],
                               position{place.b, place.h, place.query + lane, place.key + j});
              }
          });
        });
      }
  }

  /// Sums of a block to the elements they belong to.
  void store_bias_gradients(const T* sums, const bias_part& part, index_t block) const noexcept {
    const view<S, 4>& to = rows_.dbias;
    const auto own = [&](int axis, index_t i) { return to.extent(axis) == 1 ? 0 : i; };
    const index_t b = own(0, part.entries.begin), h = own(1, part.heads.begin);
    const index_t i0 = own(2, part.tiles.begin * shape::queries), j0 = own(3, block * shape::keys);
    const int queries = static_cast<int>(std::min<index_t>(shape::queries, to.extent(2) - i0));
    const int keys = static_cast<int>(std::min<index_t>(shape::keys, to.extent(3) - j0));
    if (to.extent(2) > 1 && to.extent(3) > 1) {
      for (int g = 0; g * shape::width < queries; ++g)
        store_transposed<shape::queries>(sums + g * shape::width, keys, pack<T, A>(T(1)),
                                         &to(b, h, i0 + g * shape::width, j0), to.stride(2),
                                         std::min(shape::width, queries - g * shape::width));
      return;
    }
    for (int i = 0; i < queries; ++i)
      for (int j = 0; j < keys; ++j) {
        double sum = 0;
        for (int key = to.extent(3) == 1 ? 0 : j; key < (to.extent(3) == 1 ? int(shape::keys) : j + 1); ++key)
          for (int lane = to.extent(2) == 1 ? 0 : i; lane < (to.extent(2) == 1 ? int(shape::queries) : i + 1); ++lane)
            sum += double(sums[key * shape::queries + lane]);
        to(b, h, i0 + i, j0 + j) = S(static_cast<T>(sum));
      }
  }

  template <class Segment>
  void visit_keys(gradient_workspace<S, A>& space, int tile_count, const query_rows& at, const Segment& segment,
                  index_t group, const gradient_target<T>& target, double* parameter_sums) const {
    constexpr index_t keys = shape::keys;
    const meeting m = meet(at, segment, group);
    const auto& mask = segment.rows.mask;
    gradient_buffers<T, A>& buffers = space.buffers;
    for (index_t number = m.begin; number < m.end; ++number) {
      const index_t first = number * keys;
      const int count = static_cast<int>(std::min(keys, m.source.count - first));
      tile_place here = m.place;
      here.key = static_cast<int>(first) + m.kv_offset;
      std::optional<key_block<dense_source<S>, T, A>> block;
      bool finite_keys = true;
      for (int i = 0; i < tile_count; ++i, here.query += shape::queries) {
        gradient_tile<T, A>& tile = space.tiles[i];
        const tile_class seen =
            mask.classify(here.b, here.h, here.query, here.query + tile.count(), here.key, here.key + count);
        if (seen == tile_class::empty) continue;
        if (!block) {
          block.emplace(m.source, first, count, buffers);
          std::fill_n(buffers.key_sums, count * buffers.key_pitch, T(0));
          std::fill_n(buffers.value_sums, count * buffers.value_pitch, T(0));
          block->for_keys(0, count, [&](const T* rows, index_t stride, int some, int) {
            finite_keys = finite_keys && all_finite<T, A>(rows, stride, some, features_);
          });
        }
        if (m.bias.data != nullptr)
          load_bias<T, A>(m.bias, at.first + i * shape::queries, tile.count(), first, count, buffers.bias);
        tile.absorb(*block, here, finite_keys, m.bias.data != nullptr ? buffers.bias : nullptr, m.log_weight2,
                    seen == tile_class::partial, mask, chain_, parameter_sums);
      }
      if (!block) continue;
      add_rows<T, A>(buffers.key_sums, buffers.key_pitch, static_cast<T>(rows_.scale),
                     target.dk + first * target.dk_stride, target.dk_stride, count, features_);
      add_rows<T, A>(buffers.value_sums, buffers.value_pitch, T(1), target.dv + first * target.dv_stride,
                     target.dv_stride, count, value_features_);
    }
  }

  /// A piece of the keys of one kv head: the partial sums of each sequence, in the order of parts and sequences.
  template <class Segment>
  void add_up(const Segment& segment, const T* sums, index_t number) const {
    const index_t g = number / pieces_of_head, piece = number % pieces_of_head;
    const index_t groups = segment.rows.k.extent(1), step = groups * segment.rows.k.extent(2) * row_pitch_;
    if (segment.shared()) {
      const index_t keys = segment.rows.k.extent(2), slots = slots_of(segment);
      for (index_t j = keys * piece / pieces_of_head; j < keys * (piece + 1) / pieces_of_head; ++j) {
        const T* const from = sums + (g * keys + j) * row_pitch_;
        sum_rows<T, A>(from, step, slots, false, &segment.dk(0, g, j, 0), features_);
        sum_rows<T, A>(from + key_pitch_, step, slots, false, &segment.dv(0, g, j, 0), value_features_);
      }
      return;
    }
    for (index_t s = 0; s < partition_.sequences; ++s) {
      const index_t used = partition_.parts_of(rows_.queries(s)) - (same_type ? 1 : 0);
      const index_t keys = segment.keys(s), first = segment.first_key(s), batch = segment.batch(s);
      for (index_t j = keys * piece / pieces_of_head; j < keys * (piece + 1) / pieces_of_head; ++j) {
        const T* const from = sums + ((batch * groups + g) * segment.rows.k.extent(2) + first + j) * row_pitch_;
        const index_t apart = segment.dk.extent(0) * step;
        sum_rows<T, A>(from, apart, used, same_type, &segment.dk(batch, g, first + j, 0), features_);
        sum_rows<T, A>(from + key_pitch_, apart, used, same_type, &segment.dv(batch, g, first + j, 0), value_features_);
      }
    }
  }

  /// Sums of all tasks in their order, to the mods that they belong to.
  void write_parameter_gradients(const double* sums) const noexcept {
    int first = 0;
    const auto write = [&](const auto& mod) {
      using mod_type = std::remove_cvref_t<decltype(mod)>;
      if constexpr (parameters_of<mod_type> > 0) {
        for (int m = 0; m < mod_type::parameters && mod.gradients(); ++m) {
          double sum = 0;
          for (index_t task = 0; task < partition_.tasks(); ++task) sum += sums[task * parameters + first + m];
          mod.gradients()[m] = sum;
        }
        first += mod_type::parameters;
      }
    };
    std::apply([&](const auto&... mod) { (write(mod), ...); }, chain_.mods);
  }

  /// By the sink's weight in every row, in double: there is one number for all rows of a head.
  T sink_gradient(int head) const noexcept {
    double sum = 0;
    for (index_t s = 0; s < partition_.sequences; ++s) {
      const index_t batch = rows_.batch(s), first = rows_.first_query(s);
      for (index_t i = first; i < first + rows_.queries(s); ++i) {
        const T lse = rows_.lse(batch, head, i);
        if (lse == -std::numeric_limits<T>::infinity()) continue;
        const T mean = gradient_mean<T, A>(&rows_.dout(batch, head, i, 0), &rows_.out(batch, head, i, 0),
                                           value_features_, rows_.dlse ? rows_.dlse(batch, head, i) : T(0));
        sum -= std::exp(double(rows_.sink[head]) - double(lse)) * double(mean);
      }
    }
    return static_cast<T>(sum);
  }

  const softmax_gradient_rows<S>& rows_;
  const ForEachSegment& for_each_segment_;
  const score_chain<Mods...>& chain_;
  index_t features_, value_features_;
  index_t key_pitch_, row_pitch_;  // of sums: gradients of a key, then of its value
  gradient_partition partition_{};
};

template <class A, class S, class ForEachSegment, class... Mods>
index_t softmax_backward_bytes(const softmax_gradient_rows<S>& rows, const ForEachSegment& for_each_segment,
                               const score_chain<Mods...>& chain, const executor_ref& where) noexcept {
  return softmax_backward_run<A, S, ForEachSegment, Mods...>(rows, for_each_segment, chain).bytes(where);
}

template <class A, class S, class ForEachSegment, class... Mods>
void run_softmax_backward(const checker& check, const softmax_gradient_rows<S>& rows,
                          const ForEachSegment& for_each_segment, const score_chain<Mods...>& chain,
                          scratch_view scratch, const executor_ref& where) {
  softmax_backward_run<A, S, ForEachSegment, Mods...>(rows, for_each_segment, chain).run(check, scratch, where);
}

}  // namespace detail
HEED_ARCH_END
