/// Runs a checked forward call of window attention: tasks are strips of windows, which are taken one at a time.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/executor.hpp>
#include <heed/kernel/mods.hpp>
#include <heed/kernel/softmax_row.hpp>
#include <heed/kernel/softmax_tile.hpp>
#include <heed/kernel/swin_rows.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class A, class S>
class swin_forward_run {
 public:
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;

  explicit swin_forward_run(const swin_call<S>& call) noexcept : call_(call), biases_(call), lists_(call) {}

  index_t bytes(const executor_ref& where) const noexcept {
    return scratch_total(worker_bytes(), where.concurrency) + biases_.bytes() + lists_.bytes();
  }

  void run(const checker& check, const view<S, 4>& out, const view<T, 3>& lse, scratch_view scratch,
           const executor_ref& where) {
    const index_t strips = call_.batch() * call_.grid.y.count() * call_.heads();
    if (strips == 0) return;
    const scratch_block memory(check, scratch, bytes(where));
    std::byte* const shared = memory.data() + worker_bytes() * where.concurrency;
    biases_.place(shared);
    lists_.place(shared + biases_.bytes(), call_);
    auto expand = [&](index_t number, index_t) { biases_.expand(call_, number); };
    if (biases_.bytes() > 0) for_each_task(where, biases_.tasks(), expand);
    // Strips in a row, which call each other's rows: only the first window of a task finds nothing called.
    constexpr index_t tasks_of_worker = 8;
    const index_t tasks = std::min(strips, tasks_of_worker * where.concurrency);
    auto attend = [&](index_t task, index_t worker) {
      workspace space(memory.data() + worker * worker_bytes(), call_);
      const index_t begin = strips * task / tasks, end = strips * (task + 1) / tasks;
      window_place at = first_of_strip(begin), next = at;
      for (index_t windows = (end - begin) * call_.grid.x.count(); windows > 0; --windows, at = next) {
        if (windows > 1) next = after(at);
        attend_window(space, at, windows > 1 ? &next : nullptr, out, lse);
      }
    };
    for_each_task(where, tasks, attend);
  }

 private:
  struct workspace {
    workspace(std::byte* base, const swin_call<S>& call) noexcept
        : memory(base),
          buffers(memory, call.features(), call.value_features(), !std::is_same_v<S, T>, false),
          lse(memory.take<T>(shape::queries)) {
      for (auto& tile : tiles) tile = softmax_tile<T, A>(memory, buffers);
      for (auto& row : spare) row = softmax_row<T, A>(memory, buffers);
    }
    workspace(const workspace&) = delete;
    workspace& operator=(const workspace&) = delete;

    scratch_cursor memory;
    tile_buffers<T, A> buffers;
    softmax_tile<T, A> tiles[shape::tiles];
    softmax_row<T, A> spare[spare_queries<T, A>::most];
    T* lse;  // [lane]
  };

  index_t worker_bytes() const noexcept { return round_up(workspace(nullptr, call_).memory.used(), cache_line); }

  /// A window of one head. Those of a strip follow each other, then heads, so that a head's bias stays in the
  /// first-level cache.
  struct window_place {
    index_t b, y, h, x;
    window_tokens window;
  };
  window_place first_of_strip(index_t number) const noexcept {
    const index_t h = number % call_.heads(), y = number / call_.heads() % call_.grid.y.count();
    return {number / (call_.heads() * call_.grid.y.count()), y, h, 0, lists_.at(call_.grid, y, 0)};
  }
  window_place after(window_place at) const noexcept {
    if (++at.x == call_.grid.x.count()) {
      at.x = 0;
      if (++at.h == call_.heads()) {
        at.h = 0;
        if (++at.y == call_.grid.y.count()) at.y = 0, ++at.b;
      }
    }
    at.window = lists_.at(call_.grid, at.y, at.x);
    return at;
  }

  /// Adds the rows of a window: queries, keys, values.
  void call_window(prefetcher& ahead, const window_place& at) const noexcept {
    const window_places rows = call_.grid.places_y(at.window.of_class),
                        columns = call_.grid.places_x(at.window.of_class);
    const auto add = [&](const auto& tensor, index_t head, index_t first, index_t height, index_t width) {
      const auto* row = rows_of(tensor, at.b, head, at.window, at.window.queries)[first];
      const index_t stride = tensor.stride(2), features = tensor.extent(3), down = call_.grid.width * stride;
      if (stride == features) return ahead.add(row, down, height, width * features);
      for (index_t i = 0; i < height; ++i, row += down) ahead.add(row, stride, width, features);
    };
    for (const int i : {0, 1})
      for (const int j : {0, 1}) {
        const index_t height = rows.run(i), width = columns.run(j);
        if (height == 0 || width == 0) continue;
        const index_t first = i * rows.run(0) * columns.tokens() + j * columns.run(0);
        add(call_.q, at.h, first, height, width);
        add(call_.k, at.h / call_.heads_of_kv(), first, height, width);
        add(call_.v, at.h / call_.heads_of_kv(), first, height, width);
      }
  }

  void attend_window(workspace& space, const window_place& at, const window_place* next, const view<S, 4>& out,
                     const view<T, 3>& lse) const noexcept {
    const int c = at.window.of_class;
    const window_pairs<T, A> pairs(call_, c);
    const window_source<S> source = source_of(call_, at.b, at.h / call_.heads_of_kv(), at.window);
    prefetcher ahead;
    if (next != nullptr) call_window(ahead, *next);
    const bool may_spare =
        spare_queries<T, A>::template may_read<pointed_source<S>>(call_.features(), call_.value_features());
    const index_t spare = may_spare ? spare_queries<T, A>::of(pairs.queries) : 0;
    const index_t in_tiles = pairs.queries - spare, all = (in_tiles + shape::queries - 1) / shape::queries;
    ahead.spread(pairs.keys * ((in_tiles + shape::width - 1) / shape::width));
    for (index_t first = 0; first < all; first += shape::tiles) {
      const index_t some = std::min<index_t>(shape::tiles, all - first);
      const index_t begin = first * shape::queries, end = std::min(in_tiles, (first + some) * shape::queries);
      attend_queries(space, source, at, {begin, end, first + some == all ? spare : 0}, pairs, ahead, out, lse);
    }
  }

  /// Queries [begin, end) of a window, in tiles, and `spare` behind them.
  struct query_range {
    index_t begin, end, spare;

    int tiles() const noexcept { return static_cast<int>((end - begin + shape::queries - 1) / shape::queries); }
    index_t first(int tile) const noexcept { return begin + tile * shape::queries; }
    int count(int tile) const noexcept {
      return static_cast<int>(std::min<index_t>(shape::queries, end - first(tile)));
    }
  };

  void attend_queries(workspace& space, const window_source<S>& source, const window_place& at,
                      const query_range& range, const window_pairs<T, A>& pairs, prefetcher& ahead,
                      const view<S, 4>& out, const view<T, 3>& lse) const noexcept {
    const index_t b = at.b, h = at.h;
    const index_t* const tokens = at.window.queries;
    const T* const bias = biases_.of(at.window.of_class, h);
    const auto rows = [&](const auto& tensor, index_t first) {
      return rows_of(tensor, b, h, at.window, tokens + first);
    };
    const T factor = static_cast<T>(call_.scale * double(log2_e<T>));
    const int tiles = range.tiles(), spare = static_cast<int>(range.spare);
    for (int i = 0; i < tiles; ++i) space.tiles[i].load_queries(rows(call_.q, range.first(i)), range.count(i), factor);
    for (int i = 0; i < spare; ++i) space.spare[i].load_query(rows(call_.q, range.end)[i], factor);

    const auto bias_at = [&](index_t query, index_t key) {
      return bias == nullptr ? nullptr : bias + pairs.at(query / shape::queries, key) + query % shape::queries;
    };
    const auto for_blocks_of_keys = [&](const auto& absorb) {
      for (index_t key = 0; key < pairs.keys; key += shape::keys) {
        const int count = static_cast<int>(std::min<index_t>(shape::keys, pairs.keys - key));
        const S *keys[shape::keys], *values[shape::keys];
        const pointed_source<S> listed = source.list(key, count, keys, values);
        absorb(key_block<pointed_source<S>, T, A>(listed, 0, count, space.buffers), key);
      }
    };
    const auto absorb_tile = [&](int i, const auto& block, index_t key) {
      space.tiles[i].absorb(block, {}, bias_at(range.first(i), key), T(0), false, ahead, no_mask, score_chain<>{});
    };
    const auto absorb_spare = [&](int i, const auto& block, index_t key) {
      space.spare[i].absorb(block, bias_at(range.end + i, key), shape::queries);
    };

    for (int i = 0; i < tiles; ++i) space.tiles[i].clear(tile_care::none);
    for (int i = 0; i < spare; ++i) space.spare[i].clear(tile_care::none);
    for_blocks_of_keys([&](const auto& block, index_t key) {
      for (int i = 0; i < tiles; ++i) absorb_tile(i, block, key);
      for (int i = 0; i < spare; ++i) absorb_spare(i, block, key);
    });
    for (int i = 0; i < tiles; ++i) {
      softmax_tile<T, A>& tile = space.tiles[i];
      attend_with_more_care(tile, [&](tile_care care) {
        tile.clear(care);
        for_blocks_of_keys([&](const auto& block, index_t key) { absorb_tile(i, block, key); });
      });
      tile.store_output(rows(out, range.first(i)));
      if (!lse) continue;
      tile.store_lse(space.lse, 1);
      for (int lane = 0; lane < tile.count(); ++lane)
        lse(b, h, at.window.first + tokens[range.first(i) + lane]) = space.lse[lane];
    }
    for (int i = 0; i < spare; ++i) {
      softmax_row<T, A>& row = space.spare[i];
      attend_with_more_care(row, [&](tile_care care) {
        row.clear(care);
        for_blocks_of_keys([&](const auto& block, index_t key) { absorb_spare(i, block, key); });
      });
      row.store_output(rows(out, range.end)[i]);
      if (lse) lse(b, h, at.window.first + tokens[range.end + i]) = row.lse();
    }
  }

  const swin_call<S>& call_;
  window_biases<T, A> biases_;
  window_lists lists_;
};

}  // namespace detail
HEED_ARCH_END
