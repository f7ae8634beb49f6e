/// Runs a checked forward call of window attention: strips of windows are the tasks, a window at a time.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/executor.hpp>
#include <heed/kernel/chunk_rows.hpp>
#include <heed/kernel/mods.hpp>
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
      for (index_t x = 0; x < call_.grid.x.count(); ++x) attend_window(space, b, h, y, x, out, lse);
    };
    for_each_task(where, strips, attend);
  }

 private:
  struct workspace {
    workspace(std::byte* base, const swin_call<S>& call) noexcept
        : memory(base), buffers(memory, call.features(), call.value_features(), true, false) {
      for (auto& tile : tiles) tile = softmax_tile<T, A>(memory, buffers);
      pitch = conflict_free_pitch<T>(std::max(call.features(), call.value_features()));
      rows = memory.take<T>(shape::queries * pitch);
      lse = memory.take<T>(shape::queries);
      queries = memory.take<index_t>(call.grid.places());
      keys = call.pads() ? memory.take<index_t>(call.grid.places()) : queries;
    }
    workspace(const workspace&) = delete;
    workspace& operator=(const workspace&) = delete;

    scratch_cursor memory;
    tile_buffers<T, A> buffers;
    softmax_tile<T, A> tiles[shape::tiles];
    index_t pitch;
    T* rows;  // [lane][pitch]: queries, then outputs
    T* lse;   // [lane]
    index_t *queries, *keys;  // tokens of the window
  };

  index_t worker_bytes() const noexcept {
    return round_up(workspace(nullptr, call_).memory.used(), cache_line);
  }

  void attend_window(workspace& space, index_t b, index_t h, index_t y, index_t x, const view<S, 4>& out,
                     const view<T, 3>& lse) const noexcept {
    const int c = call_.grid.class_of(y, x);
    const window_pairs<T, A> pairs(call_, c);
    call_.grid.list(y, x, false, space.queries);
    if (call_.pads()) call_.grid.list(y, x, true, space.keys);
    const window_source<S> source = source_of(call_, b, h / call_.heads_of_kv(), space.keys, pairs.keys);
    const T* const bias = biases_.of(c, h);
    const T factor = static_cast<T>(call_.scale * double(log2_e<T>));
    for (index_t first = 0; first < pairs.tiles(); first += shape::tiles) {
      const int tiles = static_cast<int>(std::min<index_t>(shape::tiles, pairs.tiles() - first));
      const auto queries_of = [&](int i) { return space.queries + (first + i) * shape::queries; };
      for (int i = 0; i < tiles; ++i) {
        const int count =
            static_cast<int>(std::min<index_t>(shape::queries, pairs.queries - (first + i) * shape::queries));
        for (int lane = 0; lane < count; ++lane)
          convert_row<T, A>(&call_.q(b, h, queries_of(i)[lane], 0), space.rows + lane * space.pitch, call_.features());
        space.tiles[i].load_queries(space.rows, space.pitch, count, factor);
      }
      const auto attend = [&](int begin, int end, tile_care care) {
        for (int i = begin; i < end; ++i) space.tiles[i].clear(care);
        for (index_t key = 0; key < pairs.keys; key += shape::keys) {
          const key_block<window_source<S>, T, A> block(
              source, key, static_cast<int>(std::min<index_t>(shape::keys, pairs.keys - key)), space.buffers);
          for (int i = begin; i < end; ++i) {
            prefetcher nothing;
            space.tiles[i].absorb(block, {}, bias == nullptr ? nullptr : bias + pairs.at(first + i, key), T(0), false,
                                  nothing, no_mask, score_chain<>{});
          }
        }
      };
      // As run_softmax: excluded pairs have weights of zero, which is enough unless what they multiply is not finite.
      attend(0, tiles, tile_care::none);
      for (int i = 0; i < tiles; ++i) {
        softmax_tile<T, A>& tile = space.tiles[i];
        for (const tile_care care : {tile_care::values, tile_care::range}) {
          if (tile.finite()) break;
          attend(i, i + 1, care);
        }
        tile.store_output(space.rows, space.pitch);
        for (int lane = 0; lane < tile.count(); ++lane)
          store_rows<A>(row_span<const T>{space.rows + lane * space.pitch, 0},
                        row_span<S>{&out(b, h, queries_of(i)[lane], 0), 0}, 1, call_.value_features());
        if (!lse) continue;
        tile.store_lse(space.lse, 1);
        for (int lane = 0; lane < tile.count(); ++lane) lse(b, h, queries_of(i)[lane]) = space.lse[lane];
      }
    }
  }

  const swin_call<S>& call_;
  window_biases<T, A> biases_;
};

}  // namespace detail
HEED_ARCH_END
