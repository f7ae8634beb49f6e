#include "ops/softmax/masked.hpp"

#include <heed/mod/block_mask.hpp>
#include <heed/mod/compose.hpp>
#include <heed/mod/document.hpp>
#include <heed/mod/masks.hpp>

#include <cstdint>
#include <vector>

using namespace softmax_test;

namespace {

const std::vector<std::int32_t> ids = [] {
  std::vector<std::int32_t> each(200);
  for (std::size_t i = 0; i < each.size(); ++i) each[i] = static_cast<std::int32_t>(i / 37);
  return each;
}();

}  // namespace

TEST_CASE("masks compose with and, or and not") {
  check_mask(heed::causal{} & heed::sorted_document{ids});
  check_mask((heed::causal{} & heed::window{20, 20}) | heed::prefix_lm{9});
  check_mask(!(heed::causal{} | heed::padding{40}));
  check_mask_in_window(!heed::dilated{30, 3} & heed::causal{});
}

TEST_CASE("lambdas compose through mask_mod") {
  check_mask(heed::causal{} & heed::mask_mod{[](auto at) { return at.kv % 2 == 0; }});
  check_mask(heed::mask_mod{[](position at) { return (at.q * at.kv) % 3 != 0; }} | heed::window{2, 2});
}

TEST_CASE("a block mask gives what its mask gives, whatever its block size") {
  const auto mask = heed::causal{} & heed::sorted_document{ids};
  reference::softmax_arguments expected;
  expected.visible = [](int, int, int p, int t) { return t <= p && t / 37 == p / 37; };
  for (const auto& [N, M] : mask_lengths)
    for (const int block : {1, 16, 64, 100}) {
      problem<float> direct({1, 2, 1, N, M, 8, 12}), planned({1, 2, 1, N, M, 8, 12});
      CAPTURE(N, M, block);
      heed::softmax_forward(direct.q, direct.k, direct.v, direct.out, {.lse = direct.lse}, mask);
      const heed::block_mask plan(mask, N, M, {.block_q = block, .block_kv = block});
      CHECK(error_of<float>(planned, {}, 1, plan) <= 1);
      CHECK(worst_error(direct, reference::softmax<float>(direct.q, direct.k, direct.v, expected)) <= 1);
    }
}

TEST_CASE("a block mask from the answers for all pairs of a lambda, by head") {
  const auto per_head = [](position at) { return at.kv % (at.h + 2) == 0 && at.kv <= at.q + 40; };
  for (const auto& [N, M] : mask_lengths) {
    problem<float> p({2, 3, 1, N, M, 8, 12});
    const heed::block_options options{.block_q = 32, .block_kv = 32, .heads = 3};
    const heed::block_mask plan(per_head, heed::block_map::from_pairs(per_head, N, M, options));
    CAPTURE(N, M);
    CHECK(error_of<float>(p, {}, 1, plan) <= 1);
  }
}
