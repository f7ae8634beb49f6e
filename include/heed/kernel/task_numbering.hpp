/// How the rows of a call, queries or keys, are cut into tasks.
#pragma once

#include <heed/core/sequence_offsets.hpp>
#include <heed/kernel/softmax_rows.hpp>
#include <heed/kernel/tile_shape.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// Numbers the tasks of a call, `size` rows each. Packed sequences get floor(cu[s] / size) + s as their first
/// number, which leaves enough numbers for each without a table; some stay empty.
class task_numbering {
 public:
  task_numbering(index_t batch, index_t heads, index_t queries, const sequence_offsets& cu, index_t size) noexcept
      : heads_(heads), queries_(queries), cu_(cu), size_(size) {
    sequences_ = cu ? cu.size() - 1 : batch;
    per_head_ = cu ? (sequences_ > 0 ? first_number(sequences_) : 0) : (queries + size - 1) / size;
  }

  index_t count() const noexcept { return cu_ ? heads_ * per_head_ : sequences_ * heads_ * per_head_; }

  /// Task `number`; count is 0 for an unused number. Later queries come first: under a causal mask they have most to
  /// do.
  query_rows at(index_t number) const noexcept {
    const index_t outer = number / per_head_, inner = per_head_ - 1 - number % per_head_;
    query_rows tile{};
    index_t length = queries_, index = inner;
    if (cu_) {
      tile.head = static_cast<int>(outer);
      index_t low = 0, high = sequences_ - 1;
      while (low < high) {
        const index_t middle = (low + high + 1) / 2;
        if (first_number(middle) <= inner)
          low = middle;
        else
          high = middle - 1;
      }
      tile.sequence = static_cast<int>(low);
      length = cu_.at(low + 1) - cu_.at(low);
      index = inner - first_number(low);
    } else {
      tile.sequence = static_cast<int>(outer / heads_);
      tile.head = static_cast<int>(outer % heads_);
    }
    tile.first = index * size_;
    tile.count = static_cast<int>(std::clamp<index_t>(length - tile.first, 0, size_));
    return tile;
  }

 private:
  index_t first_number(index_t sequence) const noexcept { return cu_.at(sequence) / size_ + sequence; }

  index_t heads_, queries_;
  sequence_offsets cu_;
  index_t size_, sequences_, per_head_;
};

/// Rows of a task: several tiles of `size`, if there are enough for every worker to get many tasks.
template <class T, class A>
index_t rows_a_task(index_t tiles, index_t workers, index_t size = tile_shape<T, A>::queries) noexcept {
  int together = tile_shape<T, A>::tiles;
  while (together > 1 && tiles < 8 * workers * together) together /= 2;
  return together * size;
}

}  // namespace detail
HEED_ARCH_END
