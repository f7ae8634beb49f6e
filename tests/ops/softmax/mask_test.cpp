#include "ops/softmax/masked.hpp"

#include <heed/mod/masks.hpp>

#include <cstdint>
#include <vector>

using namespace softmax_test;

TEST_CASE("window and causal masks hide what they say") {
  check_mask(heed::causal{});
  check_mask_in_window(heed::causal{});
  for (const index_t left : {-1, 0, 3, 40})
    for (const index_t right : {-1, 0, 3, 40}) check_mask(heed::window{left, right});
}

TEST_CASE("a causal mask and window_right = 0 are the same, bit for bit") {
  problem<float> a({2, 2, 1, 70, 150, 16, 16}), b({2, 2, 1, 70, 150, 16, 16});
  heed::softmax_forward(a.q, a.k, a.v, a.out, {.lse = a.lse}, heed::causal{});
  heed::softmax_forward(b.q, b.k, b.v, b.out, {.lse = b.lse, .window_right = 0});
  CHECK(same_result(a, b));
}

TEST_CASE("dilated masks hide what they say") {
  for (const int step : {1, 2, 3, 7})
    for (const int reach : {0, 5, 40}) check_mask(heed::dilated{reach, step});
}

TEST_CASE("prefix and padding masks hide what they say, by batch entry") {
  const std::vector<std::int32_t> numbers{0, 17, 64}, ends{200, 30, 0};
  check_mask(heed::prefix_lm{20});
  check_mask(heed::prefix_lm{numbers}, 3);
  check_mask_in_window(heed::prefix_lm{20});
  check_mask(heed::padding{50});
  check_mask(heed::padding{numbers, ends}, 3);
}

TEST_CASE("a generic lambda is a mask") {
  check_mask([](auto at) { return at.kv % 3 != 1 && at.q - at.kv >= -5; });
  check_mask_in_window([](const auto& at) { return (at.q + at.kv >= 10) | (at.q == at.kv); });
}

TEST_CASE("a lambda with concrete types is a mask, called for one pair at a time") {
  check_mask([](position at) { return at.q % 2 == 0 ? at.kv <= at.q : at.kv % 5 == at.h; });
  check_mask([](const position& at) { return at.kv < 30 + at.q; });
  check_mask_in_window([](position at) {
    if (at.b > 0) return false;
    return (at.q ^ at.kv) % 7 < 4;
  });
}

TEST_CASE("masks see batch entry and head, and double scores") {
  const auto mask = [](auto at) { return at.q - at.kv < 10 * (at.b + 1) + at.h && at.kv <= at.q; };
  for (const auto& [N, M] : mask_lengths) {
    problem<double> p({2, 3, 1, N, M, 8, 12});
    CAPTURE(N, M);
    CHECK(error_of<double>(p, {}, 1, mask) <= 1);
  }
}

TEST_CASE("a mask that hides everything, and one that hides nothing") {
  problem<float> p({1, 2, 1, 70, 150, 16, 16});
  const auto nothing = [](auto at) { return at.q < -1000; };
  CHECK(error_of<float>(p, {}, 1, nothing) <= 1);
  CHECK(std::all_of(p.out.begin(), p.out.end(), [](float x) { return x == 0; }));

  const auto all = [](auto) { return true; };
  CHECK(error_of<float>(p, {}, 1, all) <= 1);
}
