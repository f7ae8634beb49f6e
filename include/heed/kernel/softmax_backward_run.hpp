/// Runs a checked backward call of the softmax family: cuts it into tasks that own the gradients of some keys, and adds
/// up what several tasks have for the same keys.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/kernel/bias_gradient.hpp>
#include <heed/kernel/gradient_rows.hpp>
#include <heed/kernel/gradient_workspace.hpp>
#include <heed/kernel/seen_blocks.hpp>
#include <heed/kernel/sink_gradient.hpp>

#include <numeric>
#include <optional>

HEED_ARCH_BEGIN
namespace detail {

/// A call in progress.
template <class A, class S, class G, class ForEachSegment, class... Mods>
class softmax_backward_run {
 public:
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;

  /// `for_each_segment(f)` calls f(softmax_gradient_segment) for every segment, in order.
  softmax_backward_run(const softmax_gradient_rows<S, G>& rows, const ForEachSegment& for_each_segment,
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
      units = std::gcd(units, segment.rows.keys.k.extent(1));
      rows_of_part += segment.rows.keys.k.extent(0) * segment.rows.keys.k.extent(1) * segment.rows.keys.k.extent(2);
    });
    for (index_t s = 0; s < sequences; ++s) most_queries = std::max(most_queries, rows.queries(s).count);
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
      double* const sums = parameter_sums + number * chain_.learned();
      std::fill_n(sums, chain_.learned(), 0.0);
      differentiate(space, number, shared, sums);
    };
    for_each_task(where, partition_.tasks(), task);

    index_t sums = 0;
    for_each_segment_([&](const auto& segment) {
      if (bytes_of(segment) > 0 || segment.shared()) {
        const T* const from = reinterpret_cast<const T*>(shared + sums);
        auto add = [&](index_t number, index_t) { add_up(segment, from, number); };
        for_each_task(where, segment.rows.keys.k.extent(1) * pieces_of_head, add);
      }
      sums += bytes_of(segment);
    });
    write_parameter_gradients(parameter_sums);
    accumulate<0>(where, memory.data(), share);
    if (rows_.dbias) {
      const bias_owners<A, S> owners(rows_.q, rows_.bias, rows_.dbias);
      auto of_owner = [&](index_t number, index_t worker) {
        gradient_workspace<S, A> space = space_at(memory.data() + worker * share);
        for_each_segment_([&](const auto& segment) { differentiate_bias(space, owners.at(number), segment); });
      };
      for_each_task(where, owners.count(), of_owner);
    }
    for_each_segment_([&](const auto& segment) {
      if (!segment.dlog_weight) return;
      auto of_head = [&](index_t head, index_t worker) {
        gradient_workspace<S, A> space = space_at(memory.data() + worker * share);
        segment.dlog_weight[head] = weight_gradient(space, static_cast<int>(head), segment);
      };
      for_each_task(where, rows_.q.extent(1), of_head);
    });
    write_sink_gradients<A>(rows_, where);
  }

 private:
  static constexpr bool same_type = std::is_same_v<G, T>;
  /// Elements; rows of sums are aligned.
  static constexpr index_t row_unit = cache_line / index_t(sizeof(T));
  /// So that many workers have something to do where there are few heads.
  static constexpr index_t enough_tasks = 16;
  /// Elements of all partial sums together.
  static constexpr index_t most_partial_sums = index_t(1) << 24;
  static constexpr index_t pieces_of_head = 8;
  static constexpr index_t all_blocks = std::numeric_limits<index_t>::max();

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
    return slots_of(segment) * segment.dk.extent(0) * segment.rows.keys.k.extent(1) * segment.rows.keys.k.extent(2) *
           row_pitch_ * index_t(sizeof(T));
  }

  /// Of the gradients by what score mods learn, one set a task.
  index_t parameter_bytes() const noexcept {
    return round_up(partition_.tasks() * chain_.learned() * index_t(sizeof(double)), cache_line);
  }

  /// Rows of the sums of a unit that has them to itself.
  index_t own_rows() const noexcept {
    index_t most = 0;
    if (same_type || partition_.parts > 1) return 0;
    for (index_t s = 0; s < partition_.sequences; ++s) {
      index_t rows = 0;
      for_each_segment_([&](const auto& segment) {
        if (!segment.shared()) rows += segment.keys(s).count * (segment.rows.keys.k.extent(1) / partition_.units);
      });
      most = std::max(most, rows);
    }
    return most;
  }

  template <class Segment>
  gradient_target<T> target_of(const Segment& segment, T* rows) const noexcept {
    return {rows, row_pitch_, segment.joint() ? rows : rows + key_pitch_, row_pitch_};
  }

  /// Calls f(segment, kv head, target) for the keys of a unit. `shared`: partial sums; `own`: those of the unit.
  template <class F>
  void for_targets(index_t sequence, index_t unit, index_t part, std::byte* shared, T* own, F f) const {
    for_each_segment_([&](const auto& segment) {
      const index_t groups = segment.rows.keys.k.extent(1);
      const auto [batch, first, keys] = segment.keys(sequence);
      for (index_t g = unit * (groups / partition_.units); g < (unit + 1) * (groups / partition_.units); ++g) {
        const index_t slot = segment.shared() ? sequence * partition_.parts + part : part - (same_type ? 1 : 0);
        if (keys == 0) {
          f(segment, g, gradient_target<T>{});
        } else if (slots_of(segment) > 0 && slot >= 0) {
          const index_t row =
              ((slot * segment.dk.extent(0) + batch) * groups + g) * segment.rows.keys.k.extent(2) + first;
          f(segment, g, target_of(segment, reinterpret_cast<T*>(shared) + row * row_pitch_));
        } else if constexpr (same_type) {
          f(segment, g,
            gradient_target<T>{&segment.dk(batch, g, first, 0), segment.dk.stride(2), &segment.dv(batch, g, first, 0),
                               segment.dv.stride(2)});
        } else {
          f(segment, g, target_of(segment, own));
          own += keys * row_pitch_;
        }
      }
      shared += bytes_of(segment);
    });
  }

  void differentiate(gradient_workspace<S, A>& space, index_t number, std::byte* shared, double* parameter_sums) const {
    const index_t part = number % partition_.parts, unit = number / partition_.parts % partition_.units;
    const index_t sequence = number / (partition_.parts * partition_.units), queries = rows_.queries(sequence).count;
    if (part >= partition_.parts_of(queries)) return;
    for_targets(sequence, unit, part, shared, space.sums,
                [&](const auto& segment, index_t, const gradient_target<T>& target) {
                  for (index_t j = 0; j < segment.keys(sequence).count; ++j) {
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
                    const sequence_span keys = segment.keys(sequence);
                    for (index_t j = 0; j < keys.count; ++j) {
                      sum_rows<T, A>(target.dk + j * target.dk_stride, 0, 1, false,
                                     &segment.dk(keys.batch, g, keys.first + j, 0), features_);
                      if (segment.joint()) continue;
                      sum_rows<T, A>(target.dv + j * target.dv_stride, 0, 1, false,
                                     &segment.dv(keys.batch, g, keys.first + j, 0), value_features_);
                    }
                  });
    }
  }

  /// A group of query tiles against all their keys.
  void differentiate_queries(gradient_workspace<S, A>& space, const query_rows& at, index_t unit, index_t part,
                             std::byte* shared, double* parameter_sums) const {
    const sequence_span queries = rows_.queries(at.sequence);
    const index_t batch = queries.batch, row = queries.first + at.first;
    const int tile_count = (at.count + shape::queries - 1) / shape::queries;
    for (int i = 0; i < tile_count; ++i)
      load_tile(space.tiles[i], at.sequence, at.head, at.first + i * shape::queries,
                std::min(shape::queries, at.count - i * shape::queries));
    for_targets(at.sequence, unit, part, shared, space.sums,
                [&](const auto& segment, index_t group, const gradient_target<T>& target) {
                  if (at.head / (rows_.q.extent(1) / segment.rows.keys.k.extent(1)) == group)
                    visit_keys(space, tile_count, at, segment, target, parameter_sums);
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
    const sequence_span queries = rows_.queries(sequence);
    const index_t batch = queries.batch, row = queries.first + first;
    tile.load(gradient_tile_rows<S>{&rows_.q(batch, head, row, 0), rows_.q.stride(2), &rows_.out(batch, head, row, 0),
                                    rows_.out.stride(2), &rows_.dout(batch, head, row, 0), rows_.dout.stride(2),
                                    &rows_.lse(batch, head, row), rows_.lse.stride(2),
                                    rows_.dlse ? &rows_.dlse(batch, head, row) : nullptr, rows_.dlse.stride(2)},
              count, static_cast<T>(chain_.plain() ? rows_.scale * double(log2_e<T>) : rows_.scale));
  }

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
      store_bias_gradients<A>(space.bias_sums, part, 0, segment.rows.bias_columns, rows_.dbias);
      return;
    }
    for (index_t block = part.blocks.begin; block < part.blocks.end; ++block) {
      sum_up(block, block + 1);
      store_bias_gradients<A>(space.bias_sums, part, block, segment.rows.bias_columns, rows_.dbias);
    }
  }

  template <class Segment>
  auto meet_keys(const query_rows& at, const Segment& segment) const {
    return meet<A>(at, rows_.q.extent(1), rows_.queries(at.sequence).count, rows_.bias, segment.rows);
  }

  /// Calls use(place, part) for the parts of key blocks [first_block, last_block) that the loaded tile sees, while
  /// their gradients are in the buffers, as gradient_tile::differentiate_logits leaves them.
  template <int First, class Segment, class Use>
  void visit_logits(gradient_workspace<S, A>& space, const query_rows& at, const Segment& segment, index_t first_block,
                    index_t last_block, Use use) const {
    gradient_buffers<T, A>& buffers = space.buffers;
    const auto m = meet_keys(at, segment);
    for_seen_blocks(m, at.count, first_block, last_block, buffers, segment.rows.mask,
                    [&](index_t, const auto& block, tile_place here, const T* bias, bool partial) {
                      space.tiles[0].template differentiate_logits<First>(block, here, bias, m.log_weight2, partial,
                                                                          segment.rows.mask, chain_,
                                                                          [&](tile_part part) { use(here, part); });
                    });
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
    for_tiles(space, head, [&](const query_rows& at) {
      for_each_segment_([&](const auto& segment) {
        visit_pairs<I + 1>(space, at, segment,
                           [&](T gradient, T score, const position& where) { mod.accumulate(gradient, score, where); });
      });
    });
  }

  /// The gradient by a segment's weight for a head: of all its logits, in double.
  template <class Segment>
  T weight_gradient(gradient_workspace<S, A>& space, int head, const Segment& segment) const {
    double sum = 0;
    for_tiles(space, head, [&](const query_rows& at) {
      visit_pairs<sizeof...(Mods)>(space, at, segment, [&](T gradient, T, const position&) { sum += gradient; });
    });
    return static_cast<T>(sum);
  }

  /// Calls visit(queries) for the tiles of a head, each loaded first.
  template <class Visit>
  void for_tiles(gradient_workspace<S, A>& space, int head, const Visit& visit) const {
    for (index_t s = 0; s < partition_.sequences; ++s)
      for (index_t queries = rows_.queries(s).count, first = 0; first < queries; first += shape::queries) {
        const query_rows at{static_cast<int>(s), head, first,
                            static_cast<int>(std::min<index_t>(shape::queries, queries - first))};
        load_tile(space.tiles[0], s, head, first, at.count);
        visit(at);
      }
  }

  /// Calls visit(gradient, score, position) for the pairs of the loaded tile that have a gradient by what score mod
  /// First - 1 gives, and what it was given.
  template <int First, class Segment, class Visit>
  void visit_pairs(gradient_workspace<S, A>& space, const query_rows& at, const Segment& segment,
                   const Visit& visit) const {
    visit_logits<First>(space, at, segment, 0, all_blocks, [&](tile_place place, tile_part part) {
      for (int j = part.first; j < part.first + part.count; ++j)
        for (int lane = part.low * shape::width; lane < std::min(at.count, part.high * shape::width); ++lane) {
          const T gradient = space.buffers.gradients[j * shape::queries + lane];
          if (gradient != T(0))
            visit(gradient, space.buffers.scores[j * shape::queries + lane],
                  position{place.b, place.h, place.query + lane, place.key + j});
        }
    });
  }

  template <class Segment>
  void visit_keys(gradient_workspace<S, A>& space, int tile_count, const query_rows& at, const Segment& segment,
                  const gradient_target<T>& target, double* parameter_sums) const {
    const auto m = meet_keys(at, segment);
    const auto& mask = segment.rows.mask;
    gradient_buffers<T, A>& buffers = space.buffers;
    for (index_t number = m.begin; number < m.end; ++number) {
      const index_t first = m.first_key(number);
      const int count = m.keys_of(number);
      std::optional<key_block<dense_source<S>, T, A>> block;
      bool finite_keys = true;
      for (int i = 0; i < tile_count; ++i) {
        const tile_place here = m.place_of(i, number);
        gradient_tile<T, A>& tile = space.tiles[i];
        const tile_class seen =
            mask.classify(here.b, here.h, here.query, here.query + tile.count(), here.key, here.key + count);
        if (seen == tile_class::empty) continue;
        if (!block) {
          block.emplace(m.source, first, count, buffers);
          std::fill_n(buffers.key_sums, count * buffers.key_pitch, T(0));
          std::fill_n(buffers.value_sums, count * buffers.value_pitch, T(0));
          block->for_keys(0, count, [&](strided_rows<const T> rows, int some, int) {
            finite_keys = finite_keys && all_finite<T, A>(rows, some, features_);
          });
        }
        tile.absorb(*block, here, finite_keys, load_bias(m, i, tile.count(), number, buffers), m.log_weight2,
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
    const index_t groups = segment.rows.keys.k.extent(1), step = groups * segment.rows.keys.k.extent(2) * row_pitch_;
    if (segment.shared()) {
      const index_t keys = segment.rows.keys.k.extent(2), slots = slots_of(segment);
      for (index_t j = keys * piece / pieces_of_head; j < keys * (piece + 1) / pieces_of_head; ++j) {
        const T* const from = sums + (g * keys + j) * row_pitch_;
        sum_rows<T, A>(from, step, slots, false, &segment.dk(0, g, j, 0), features_);
        if (segment.joint()) continue;
        sum_rows<T, A>(from + key_pitch_, step, slots, false, &segment.dv(0, g, j, 0), value_features_);
      }
      return;
    }
    for (index_t s = 0; s < partition_.sequences; ++s) {
      const index_t used = partition_.parts_of(rows_.queries(s).count) - (same_type ? 1 : 0);
      const auto [batch, first, keys] = segment.keys(s);
      for (index_t j = keys * piece / pieces_of_head; j < keys * (piece + 1) / pieces_of_head; ++j) {
        const T* const from = sums + ((batch * groups + g) * segment.rows.keys.k.extent(2) + first + j) * row_pitch_;
        const index_t apart = segment.dk.extent(0) * step;
        sum_rows<T, A>(from, apart, used, same_type, &segment.dk(batch, g, first + j, 0), features_);
        if (segment.joint()) continue;
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
          for (index_t task = 0; task < partition_.tasks(); ++task) sum += sums[task * chain_.learned() + first + m];
          mod.gradients()[m] = sum;
        }
        first += mod_type::parameters;
      }
    };
    std::apply([&](const auto&... mod) { (write(mod), ...); }, chain_.mods);
    if constexpr (score_chain<Mods...>::has_pair_score)
      chain_.pair_score().store_learned(sums + chain_.parameters, partition_.tasks(), chain_.learned());
  }

  const softmax_gradient_rows<S, G>& rows_;
  const ForEachSegment& for_each_segment_;
  const score_chain<Mods...>& chain_;
  index_t features_, value_features_;
  index_t key_pitch_, row_pitch_;  // of sums: gradients of a key, then of its value
  gradient_partition partition_{};
};

template <class A, class S, class G, class ForEachSegment, class... Mods>
index_t softmax_backward_bytes(const softmax_gradient_rows<S, G>& rows, const ForEachSegment& for_each_segment,
                               const score_chain<Mods...>& chain, const executor_ref& where) noexcept {
  return softmax_backward_run<A, S, G, ForEachSegment, Mods...>(rows, for_each_segment, chain).bytes(where);
}

template <class A, class S, class G, class ForEachSegment, class... Mods>
void run_softmax_backward(const checker& check, const softmax_gradient_rows<S, G>& rows,
                          const ForEachSegment& for_each_segment, const score_chain<Mods...>& chain,
                          scratch_view scratch, const executor_ref& where) {
  softmax_backward_run<A, S, G, ForEachSegment, Mods...>(rows, for_each_segment, chain).run(check, scratch, where);
}

}  // namespace detail
HEED_ARCH_END
