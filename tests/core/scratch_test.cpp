#include "support/catch.hpp"

#include <heed/core/scratch.hpp>

#include <cstdint>
#include <cstring>
#include <thread>
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

TEST_CASE("scratch is the thread's when none is given, and stays with it") {
  const std::byte* first = nullptr;
  {
    const scratch_block block(checker("op"), {}, 1000);
    REQUIRE(block.data() != nullptr);
    CHECK(aligned(block.data()));
    block.data()[0] = block.data()[999 - 63] = std::byte{1};
    first = block.data();
  }
  CHECK(scratch_block(checker("op"), {}, 1000).data() == first);
  CHECK(scratch_block(checker("op"), {}, 10).data() == first);
  {
    const scratch_block larger(checker("op"), {}, 1 << 20);
    std::memset(larger.data(), 1, (1 << 20) - 63);
  }

  const std::byte* elsewhere = first;
  std::thread([&] {
    const scratch_block block(checker("op"), {}, 1000), nested(checker("op"), {}, 1000);
    elsewhere = block.data();
    block.data()[0] = std::byte{2};
  }).join();
  CHECK(elsewhere != nullptr);
}

TEST_CASE("a call within a call has scratch of its own") {
  const scratch_block outer(checker("op"), {}, 256);
  std::memset(outer.data(), 1, 256 - 63);
  {
    const scratch_block inner(checker("op"), {}, 256), innermost(checker("op"), {}, 4096);
    CHECK(inner.data() != outer.data());
    CHECK(innermost.data() != inner.data());
    CHECK(aligned(inner.data()));
    std::memset(inner.data(), 2, 256 - 63);
    std::memset(innermost.data(), 3, 4096 - 63);
  }
  CHECK(outer.data()[0] == std::byte{1});
  CHECK(outer.data()[256 - 64] == std::byte{1});
}

TEST_CASE("a thread's scratch can be released between calls, not under one") {
  {
    const scratch_block block(checker("op"), {}, 256);
    heed::release_scratch();
    std::memset(block.data(), 1, 256 - 63);
  }
  heed::release_scratch();
  heed::release_scratch();
  const scratch_block again(checker("op"), {}, 256);
  std::memset(again.data(), 1, 256 - 63);
}

TEST_CASE("scratch is returned when a call fails") {
  const std::byte* const kept = scratch_block(checker("op"), {}, 64).data();
  try {
    const scratch_block block(checker("op"), {}, 64);
    checker("op").require(false, "n", "anything else", 0);
  } catch (const heed::invalid_argument&) {
  }
  CHECK(scratch_block(checker("op"), {}, 64).data() == kept);
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
