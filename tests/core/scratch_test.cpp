#include "support/catch.hpp"

#include <heed/core/scratch.hpp>

#include <cstdint>
#include <vector>

using heed::index_t;
using heed::scratch_view;
using heed::detail::checker;
using heed::detail::scratch_block;
using heed::detail::scratch_cursor;

namespace {

bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 64 == 0; }

}  // namespace

TEST_CASE("scratch of the caller's is used wherever it starts") {
  const index_t each = 100, workers = 3, total = heed::detail::scratch_total(each, workers);
  std::vector<std::byte> buffer(static_cast<std::size_t>(total) + 64);
  for (int shift = 0; shift < 64; ++shift) {
    std::byte* const begin = buffer.data() + shift;
    const scratch_block block(checker("op"), {begin, total}, total);
    CHECK(aligned(block.data()));
    CHECK(block.data() >= begin);
    CHECK(block.data() + workers * heed::detail::round_up(each, 64) <= begin + total);
  }
}

TEST_CASE("scratch is allocated when none is given") {
  const scratch_block block(checker("op"), {}, 1000);
  REQUIRE(block.data() != nullptr);
  CHECK(aligned(block.data()));
  block.data()[0] = block.data()[999 - 63] = std::byte{1};
  CHECK(scratch_block(checker("op"), {}, 0).data() == nullptr);
}

TEST_CASE("scratch that is too small is refused") {
  std::byte buffer[64];
  CHECK_THROWS_WITH(scratch_block(checker("softmax_forward"), {buffer, 64}, 65),
                    "heed::softmax_forward: options.scratch: expected at least 65 bytes, got 64");
}

TEST_CASE("a cursor counts and hands out the same arrays") {
  const auto layout = [](scratch_cursor& cursor) {
    float* a = cursor.take<float>(3);
    double* b = cursor.take<double>(20);
    char* c = cursor.take<char>(0);
    char* d = cursor.take<char>(1);
    return std::vector<const void*>{a, b, c, d};
  };
  scratch_cursor counting(nullptr);
  for (const void* p : layout(counting)) CHECK(p == nullptr);
  CHECK(counting.used() == 64 + 192 + 0 + 64);

  alignas(64) std::byte memory[64 + 192 + 64];
  scratch_cursor handing(memory);
  const std::vector<const void*> arrays = layout(handing);
  CHECK(handing.used() == counting.used());
  CHECK(arrays == std::vector<const void*>{memory, memory + 64, memory + 256, memory + 256});
}
