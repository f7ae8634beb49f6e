/// Where the rows of a paged sequence are.
#pragma once

#include <heed/kernel/row_store.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>

HEED_ARCH_BEGIN
namespace detail {

/// From positions to slots of the pages of one sequence.
struct paged_walk {
  const std::int32_t* pages;
  index_t page_size;
  row_place operator()(index_t position, index_t most) const noexcept {
    const index_t slot = position % page_size;
    return {pages[position / page_size], slot, std::min(most, page_size - slot)};
  }
};

inline void check_pool(const checker& check, index_t pages, index_t page_size) {
  check.require(pages >= 0 && pages <= std::numeric_limits<std::int32_t>::max(), "sizes.pages", "0 to 2^31 - 1", pages);
  check.require(page_size >= 1 && page_size <= most_tokens, "sizes.page_size", "1 to 2^30", page_size);
}

}  // namespace detail
HEED_ARCH_END
