/// Runs a checked backward call of window attention: parts of the windows of a kv head are the tasks. No window shares
/// a key with another, so only gradients by the table and by missing places are sums over tasks.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/executor.hpp>
#include <heed/kernel/chunk_rows.hpp>
#include <heed/kernel/gradient_rows.hpp>
#include <heed/kernel/gradient_tile.hpp>
#include <heed/kernel/mods.hpp>
#include <heed/kernel/swin_rows.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// What backward is given besides the inputs, and what it returns.
template <class S>
struct swin_gradients {
  using T = accumulator_t<S>;
  view<const S, 4> out;   // [B,H,N,E]
  view<const T, 3> lse;   // [B,H,N]
  view<const S, 4> dout;  // [B,H,N,E]
  view<S, 4> dq, dk, dv;
  view<S, 2> dtable;          // as the table, or empty
  view<S, 2> dk_pad, dv_pad;  // [G,D], [G,E], or empty
};

/// to[i] = rows[i], in the type of the sums.
template <class T, class A, class S>
void gather_rows(const listed_rows<const S>& rows, int count, index_t features, row_span<T> to) noexcept {
  for (int i = 0; i < count; ++i) convert_row<T, A>(rows[i], to[i], features);
}
/// rows[i] = from[i]
template <class A, class T, class S>
void scatter_rows(row_span<const T> from, int count, index_t features, const listed_rows<S>& rows) noexcept {
  for (int i = 0; i < count; ++i) store_rows<A>(from.from(i), row_span<S>{rows[i], 0}, 1, features);
}

template <class A, class S>
class swin_backward_run {
 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;
  using shape = tile_shape<T, A>;

  swin_backward_run(const swin_call<S>& call, const swin_gradients<S>& gradients) noexcept
      : call_(call), gradients_(gradients), biases_(call), lists_(call), strips_(call.batch() * call.grid.y.count()) {
    // Enough windows for a task to set up its sums.
    constexpr index_t windows = 8, most = 256;
    parts_ = std::min(strips_, std::clamp<index_t>(strips_ * call.grid.x.count() / windows, 1, most));
    offsets_ = call.table.extent(0);
  }

  index_t bytes(const executor_ref& where) const noexcept {
    return scratch_total(worker_bytes(), where.concurrency) + biases_.bytes() + lists_.bytes() + parts_ * sums_bytes();
  }

  void run(const checker& check, scratch_view scratch, const executor_ref& where) {
    const scratch_block memory(check, scratch, bytes(where));
    std::byte* const shared = memory.data() + worker_bytes() * where.concurrency;
    biases_.place(shared);
    lists_.place(shared + biases_.bytes(), call_);
    sums_ = shared + biases_.bytes() + lists_.bytes();
    auto expand = [&](index_t number, index_t) { biases_.expand(call_, number); };
    if (biases_.bytes() > 0) for_each_task(where, biases_.tasks(), expand);
    auto differentiate = [&](index_t number, index_t worker) {
      workspace space(memory.data() + worker * worker_bytes(), *this);
      differentiate_part(space, number / call_.kv_heads(), number % call_.kv_heads());
    };
    for_each_task(where, parts_ * call_.kv_heads(), differentiate);
    auto add_up = [&](index_t g, index_t) { add_parts(g); };
    if (sums_bytes() > 0) for_each_task(where, call_.kv_heads(), add_up);
  }

 private:
  struct workspace {
    workspace(std::byte* base, const swin_backward_run& run) noexcept
        : memory(base),
          buffers(memory, run.call_.features(), run.call_.value_features(), !std::is_same_v<S, T>, false),
          q(take_rows<T>(memory, shape::queries, run.call_.features())),
          out(take_rows<T>(memory, shape::queries, run.call_.value_features())),
          dout(take_rows<T>(memory, shape::queries, run.call_.value_features())),
          lse(memory.take<T>(shape::queries)),
          dk(take_rows<T>(memory, run.call_.grid.places(), run.call_.features())),
          dv(take_rows<T>(memory, run.call_.grid.places(), run.call_.value_features())),
          pairs(run.gradients_.dtable ? memory.take<T>(run.biases_.size() * run.call_.heads_of_kv()) : nullptr) {
      for (auto& tile : tiles) tile = gradient_tile<T, A>(memory, buffers);
    }
    workspace(const workspace&) = delete;
    workspace& operator=(const workspace&) = delete;

    scratch_cursor memory;
    gradient_buffers<T, A> buffers;
    gradient_tile<T, A> tiles[shape::tiles];
    row_span<T> q, out, dout;  // [lane]
    T* lse;                    // [lane]
    row_span<T> dk, dv;        // [key of the window]
    T* pairs;                  // [head of the kv head], each as the biases of a head
  };

  /// What a part leaves to be added up.
  struct part_sums {
    part_sums(std::byte* base, const swin_backward_run& run) noexcept : memory(base) {
      const bool pads = run.gradients_.dk_pad || run.gradients_.dv_pad;
      table = run.gradients_.dtable ? memory.take<double>(run.call_.heads() * run.offsets_) : nullptr;
      missing_key = pads ? memory.take<double>(run.call_.kv_heads() * run.call_.features()) : nullptr;
      missing_value = pads ? memory.take<double>(run.call_.kv_heads() * run.call_.value_features()) : nullptr;
    }
    scratch_cursor memory;
    double* table;          // [H][offset]
    double* missing_key;    // [G][D]
    double* missing_value;  // [G][E]
  };

  index_t worker_bytes() const noexcept { return round_up(workspace(nullptr, *this).memory.used(), cache_line); }
  index_t sums_bytes() const noexcept { return part_sums(nullptr, *this).memory.used(); }
  part_sums sums(index_t part) const noexcept { return {sums_ + part * sums_bytes(), *this}; }

  void differentiate_part(workspace& space, index_t part, index_t g) const noexcept {
    const index_t heads = call_.heads_of_kv(), D = call_.features(), E = call_.value_features();
    const part_sums sums = this->sums(part);
    if (space.pairs != nullptr) std::fill_n(space.pairs, biases_.size() * heads, T(0));
    if (sums.missing_key != nullptr) {
      std::fill_n(sums.missing_key + g * D, D, 0.0);
      std::fill_n(sums.missing_value + g * E, E, 0.0);
    }
    for (index_t strip = strips_ * part / parts_; strip < strips_ * (part + 1) / parts_; ++strip)
      for (index_t x = 0; x < call_.grid.x.count(); ++x)
        differentiate_window(space, lists_.at(call_.grid, strip % call_.grid.y.count(), x),
                             strip / call_.grid.y.count(), g, sums);
    if (space.pairs == nullptr) return;
    for (index_t i = 0; i < heads; ++i) {
      double* const table = sums.table + (g * heads + i) * offsets_;
      std::fill_n(table, offsets_, 0.0);
      for (int c = 0; c < window_grid::classes; ++c) {
        if (!biases_.has(c)) continue;
        const T* const from = space.pairs + i * biases_.size() + biases_.first(c);
        window_pairs<T, A>(call_, c).for_each(call_, c, [&](index_t pair, index_t offset) {
          if (offset >= 0) table[offset] += double(from[pair]);
        });
      }
    }
  }

  void differentiate_window(workspace& space, const window_tokens& window, index_t b, index_t g,
                            const part_sums& sums) const noexcept {
    const window_pairs<T, A> pairs(call_, window.of_class);
    const window_source<S> source = source_of(call_, b, g, window);
    for (index_t j = 0; j < pairs.keys; ++j) {
      std::fill_n(space.dk[j], call_.features(), T(0));
      std::fill_n(space.dv[j], call_.value_features(), T(0));
    }
    for (index_t i = 0; i < call_.heads_of_kv(); ++i)
      for (index_t first = 0; first < pairs.tiles(); first += shape::tiles)
        differentiate_queries(space, source, window, pairs, b, g * call_.heads_of_kv() + i, first,
                              space.pairs == nullptr ? nullptr : space.pairs + i * biases_.size());
    const T scale = static_cast<T>(call_.scale);
    for (index_t j = 0; j < pairs.keys; ++j) {
      for_vectors<T, A>(call_.features(), [&](index_t d, int) {
        (P::load_aligned(space.dk[j] + d) * P(scale)).store_aligned(space.dk[j] + d);
      });
      if (window.keys[j] >= 0) {
        scatter_rows<A>(row_span<const T>(space.dk.from(j)), 1, call_.features(),
                        rows_of(gradients_.dk, b, g, window, window.keys + j));
        scatter_rows<A>(row_span<const T>(space.dv.from(j)), 1, call_.value_features(),
                        rows_of(gradients_.dv, b, g, window, window.keys + j));
      } else if (sums.missing_key != nullptr) {
        for (index_t d = 0; d < call_.features(); ++d)
          sums.missing_key[g * call_.features() + d] += double(space.dk[j][d]);
        for (index_t e = 0; e < call_.value_features(); ++e)
          sums.missing_value[g * call_.value_features() + e] += double(space.dv[j][e]);
      }
    }
  }

  /// Tiles from number `first` of one head's queries, against all keys of the window. `pair_sums`: of the head, or null.
  void differentiate_queries(workspace& space, const window_source<S>& source, const window_tokens& window,
                             const window_pairs<T, A>& pairs, index_t b, index_t h, index_t first,
                             T* pair_sums) const noexcept {
    const int c = window.of_class;
    const int tiles = static_cast<int>(std::min<index_t>(shape::tiles, pairs.tiles() - first));
    const auto queries_of = [&](int i) { return window.queries + (first + i) * shape::queries; };
    for (int i = 0; i < tiles; ++i) {
      const int count =
          static_cast<int>(std::min<index_t>(shape::queries, pairs.queries - (first + i) * shape::queries));
      const index_t* const tokens = queries_of(i);
      gather_rows<T, A>(rows_of(call_.q, b, h, window, tokens), count, call_.features(), space.q);
      gather_rows<T, A>(rows_of(gradients_.out, b, h, window, tokens), count, call_.value_features(), space.out);
      gather_rows<T, A>(rows_of(gradients_.dout, b, h, window, tokens), count, call_.value_features(), space.dout);
      for (int lane = 0; lane < count; ++lane) space.lse[lane] = gradients_.lse(b, h, window.first + tokens[lane]);
      space.tiles[i].load(gradient_tile_rows<T>{space.q.data, space.q.stride, space.out.data, space.out.stride,
                                                space.dout.data, space.dout.stride, space.lse, 1, nullptr, 0},
                          count, static_cast<T>(call_.scale * double(log2_e<T>)));
    }
    gradient_buffers<T, A>& buffers = space.buffers;
    const T* const bias = biases_.of(c, h);
    for (index_t key = 0; key < pairs.keys; key += shape::keys) {
      const int count = static_cast<int>(std::min<index_t>(shape::keys, pairs.keys - key));
      const S *keys[shape::keys], *values[shape::keys];
      const pointed_source<S> listed = source.list(key, count, keys, values);
      const key_block<pointed_source<S>, T, A> block(listed, 0, count, buffers);
      std::fill_n(buffers.key_sums, count * buffers.key_pitch, T(0));
      std::fill_n(buffers.value_sums, count * buffers.value_pitch, T(0));
      bool finite_keys = true;
      block.for_keys(0, count, [&](auto rows, int some, int) {
        finite_keys = finite_keys && all_finite<T, A>(rows, some, call_.features());
      });
      for (int i = 0; i < tiles; ++i) {
        const index_t at = pairs.at(first + i, key);
        space.tiles[i].absorb(block, {}, finite_keys, bias == nullptr ? nullptr : bias + at, T(0), false, no_mask,
                              score_chain<>{}, nullptr);
        if (pair_sums == nullptr) continue;
        T* const to = pair_sums + biases_.first(c) + at;
        for (int n = 0; n < count * shape::queries; n += shape::queries)
          for (int lane = n; lane < n + space.tiles[i].count(); lane += P::lanes)
            (P::load_aligned(to + lane) + P::load_aligned(buffers.gradients + lane)).store_aligned(to + lane);
      }
      add_rows<T, A>(buffers.key_sums, buffers.key_pitch, T(1), space.dk[key], space.dk.stride, count,
                     call_.features());
      add_rows<T, A>(buffers.value_sums, buffers.value_pitch, T(1), space.dv[key], space.dv.stride, count,
                     call_.value_features());
    }
    for (int i = 0; i < tiles; ++i) {
      space.tiles[i].store(space.q.data, space.q.stride, static_cast<T>(call_.scale));
      scatter_rows<A>(row_span<const T>(space.q), space.tiles[i].count(), call_.features(),
                      rows_of(gradients_.dq, b, h, window, queries_of(i)));
    }
  }

  /// The sums of all parts in their order, of one kv head.
  void add_parts(index_t g) const noexcept {
    const auto total = [&](const auto& number) {
      double sum = 0;
      for (index_t part = 0; part < parts_; ++part) sum += number(sums(part));
      return S(static_cast<T>(sum));
    };
    const index_t heads = call_.heads_of_kv(), D = call_.features(), E = call_.value_features();
    if (gradients_.dtable)
      for (index_t h = g * heads; h < (g + 1) * heads; ++h)
        for (index_t u = 0; u < offsets_; ++u)
          gradients_.dtable(u, h) = total([&](const part_sums& some) { return some.table[h * offsets_ + u]; });
    if (gradients_.dk_pad)
      for (index_t d = 0; d < D; ++d)
        gradients_.dk_pad(g, d) = total([&](const part_sums& some) { return some.missing_key[g * D + d]; });
    if (gradients_.dv_pad)
      for (index_t e = 0; e < E; ++e)
        gradients_.dv_pad(g, e) = total([&](const part_sums& some) { return some.missing_value[g * E + e]; });
  }

  const swin_call<S>& call_;
  const swin_gradients<S>& gradients_;
  window_biases<T, A> biases_;
  window_lists lists_;
  index_t strips_, parts_, offsets_;
  std::byte* sums_ = nullptr;
};

}  // namespace detail
HEED_ARCH_END
