/// Runs a checked forward call of window attention: strips of windows are the tasks, a window at a time.
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

  explicit swin_forward_run(const swin_call<S>& call) noexcept : call_(call), biases_(call) {}

  index_t bytes(const executor_ref& where) const noexcept {
    return scratch_total(worker_bytes(), where.concurrency) + biases_.bytes();
  }

  void run(const checker& check, const view<S, 4>& out, const view<T, 3>& lse, scratch_view scratch,
           const executor_ref& where) {
    const index_t strips = call_.batch() * call_.grid.y.count() * call_.heads();
    if (strips == 0) return;
    const scratch_block memory(check, scratch, bytes(where));
    biases_.place(memory.data() + worker_bytes() * where.concurrency);
    auto expand = [&](index_t number, index_t) { biases_.expand(call_, number); };
    if (biases_.bytes() > 0) for_each_task(where, biases_.tasks(), expand);
    auto attend = [&](index_t number, index_t worker) {
      workspace space(memory.data() + worker * worker_bytes(), call_);
      const index_t h = number % call_.heads(), y = number / call_.heads() % call_.grid.y.count();
      const index_t b = number / (call_.heads() * call_.grid.y.count());
      space.window.list(call_, y, 0);
      for (index_t x = 0; x < call_.grid.x.count(); ++x) {
        const bool last = x + 1 == call_.grid.x.count();
        if (!last) space.next.list(call_, y, x + 1);
        attend_window(space, b, h, last, out, lse);
        std::swap(space.window, space.next);
      }
    };
    for_each_task(where, strips, attend);
  }

 private:
  struct workspace {
    workspace(std::byte* base, const swin_call<S>& call) noexcept
        : memory(base),
          buffers(memory, call.features(), call.value_features(), true, false),
          lse(memory.take<T>(shape::queries)),
          window(memory, call),
          next(memory, call) {
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
    window_tokens window, next;
  };

  index_t worker_bytes() const noexcept { return round_up(workspace(nullptr, call_).memory.used(), cache_line); }

  /// Adds the rows of a window: queries, keys, values.
  void call_window(prefetcher& ahead, const window_tokens& window, index_t b, index_t h) const noexcept {
    const index_t count = call_.grid.tokens_of(window.of_class), g = h / call_.heads_of_kv();
    for (index_t first = 0, last = 0; first < count; first = last) {
      const index_t token = window.queries[first];
      while (last < count && window.queries[last] - token == last - first) ++last;
      const auto add = [&](const auto& tensor, index_t head) {
        ahead.add(&tensor(b, head, token, 0), tensor.stride(2), last - first, tensor.extent(3));
      };
      add(call_.q, h);
      add(call_.k, g);
      add(call_.v, g);
    }
  }

  void attend_window(workspace& space, index_t b, index_t h, bool last, const view<S, 4>& out,
                     const view<T, 3>& lse) const noexcept {
    const int c = space.window.of_class;
    const window_pairs<T, A> pairs(call_, c);
    const window_source<S> source = source_of(call_, b, h / call_.heads_of_kv(), space.window);
    prefetcher ahead;
    if (!last) call_window(ahead, space.next, b, h);
    const index_t spare = spare_queries<T, A>::of(pairs.queries);
    const index_t in_tiles = pairs.queries - spare, all = (in_tiles + shape::queries - 1) / shape::queries;
    ahead.spread(pairs.keys * ((in_tiles + shape::width - 1) / shape::width));
    for (index_t first = 0; first < all; first += shape::tiles) {
      const index_t some = std::min<index_t>(shape::tiles, all - first);
      const index_t begin = first * shape::queries, end = std::min(in_tiles, (first + some) * shape::queries);
      attend_queries(space, source, {b, h, begin, end, first + some == all ? spare : 0}, pairs, biases_.of(c, h), ahead,
                     out, lse);
    }
  }

  /// Queries [begin, end) of a window, in tiles, and `spare` behind them.
  struct query_range {
    index_t b, h;
    index_t begin, end, spare;

    int tiles() const noexcept { return static_cast<int>((end - begin + shape::queries - 1) / shape::queries); }
    index_t first(int tile) const noexcept { return begin + tile * shape::queries; }
    int count(int tile) const noexcept {
      return static_cast<int>(std::min<index_t>(shape::queries, end - first(tile)));
    }
  };

  void attend_queries(workspace& space, const window_source<S>& source, const query_range& range,
                      const window_pairs<T, A>& pairs, const T* bias, prefetcher& ahead, const view<S, 4>& out,
                      const view<T, 3>& lse) const noexcept {
    const index_t b = range.b, h = range.h;
    const index_t* const tokens = space.window.queries;
    const T factor = static_cast<T>(call_.scale * double(log2_e<T>));
    const int tiles = range.tiles(), spare = static_cast<int>(range.spare);
    for (int i = 0; i < tiles; ++i)
      space.tiles[i].load_queries(rows_of(call_.q, b, h, tokens + range.first(i)), range.count(i), factor);
    for (int i = 0; i < spare; ++i) space.spare[i].load_query(&call_.q(b, h, tokens[range.end + i], 0), factor);

    const auto bias_at = [&](index_t query, index_t key) {
      return bias == nullptr ? nullptr : bias + pairs.at(query / shape::queries, key) + query % shape::queries;
    };
    const auto for_blocks_of_keys = [&](const auto& absorb) {
      for (index_t key = 0; key < pairs.keys; key += shape::keys) {
        const int count = static_cast<int>(std::min<index_t>(shape::keys, pairs.keys - key));
        absorb(key_block<window_source<S>, T, A>(source, key, count, space.buffers), key);
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
      const index_t* const own = tokens + range.first(i);
      tile.store_output(rows_of(out, b, h, own));
      if (!lse) continue;
      tile.store_lse(space.lse, 1);
      for (int lane = 0; lane < tile.count(); ++lane) lse(b, h, own[lane]) = space.lse[lane];
    }
    for (int i = 0; i < spare; ++i) {
      softmax_row<T, A>& row = space.spare[i];
      attend_with_more_care(row, [&](tile_care care) {
        row.clear(care);
        for_blocks_of_keys([&](const auto& block, index_t key) { absorb_spare(i, block, key); });
      });
      const index_t token = tokens[range.end + i];
      row.store_output(&out(b, h, token, 0));
      if (lse) lse(b, h, token) = row.lse();
    }
  }

  const swin_call<S>& call_;
  window_biases<T, A> biases_;
};

}  // namespace detail
HEED_ARCH_END
