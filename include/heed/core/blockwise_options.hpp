/// Options of attention over keys that arrive block by block.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/view.hpp>

#include <concepts>

HEED_BEGIN

/// Some keys and their values: what a call reads next.
template <class T>
struct key_value_block {
  view<const T, 4> k;  ///< [B,G,m,D]
  view<const T, 4> v;  ///< [B,G,m,E]
  /// Position of the first key. Default: after the last one of the block before; of the first block, kv_offset.
  setting<index_t> position{};
};

/// What became of a call that can be cancelled.
enum class blockwise_status {
  finished,  ///< all blocks were read
  cancelled  ///< `progress` answered false: the outputs are those of the keys read so far
};

/// A non-owning reference to something that is told how far a call is; `heed::progress(f)` makes it. `{}`: nobody is.
struct progress_ref {
  void* object = nullptr;
  bool (*call)(void* object, index_t keys) = nullptr;
};

/// Options of blockwise_forward. Fields that are named as in softmax_options mean the same.
///
///     heed::blockwise_forward(q, blocks, out, {.lse = lse, .window_left = 4095}, heed::causal{});
template <class T>
struct blockwise_options {
  using accumulator = accumulator_t<T>;

  setting<double> scale{};
  double softcap = 0;
  view<const accumulator, 1> sink{};
  view<accumulator, 3> lse{};
  index_t window_left = -1;
  index_t window_right = -1;
  /// Position of query 0. How many keys there will be is not known, so the default is 0: queries begin where keys do.
  index_t q_offset = 0;
  /// Position of the first key of the first block.
  index_t kv_offset = 0;
  /// Asked after each block whether to go on.
  progress_ref progress{};
  /// Memory for the call; blockwise_forward_scratch_bytes tells how much.
  scratch_view scratch{};
  executor_ref executor{};
};

HEED_END

HEED_ARCH_BEGIN

/// Refers to an object that is called as f(keys read so far) -> whether to go on, and must outlive the call.
template <class F>
  requires requires(F& f, index_t keys) {
    { f(keys) } -> std::convertible_to<bool>;
  }
progress_ref progress(F& f) noexcept {
  return {&f, [](void* object, index_t keys) -> bool { return (*static_cast<F*>(object))(keys); }};
}

HEED_ARCH_END
