#include "ops/softmax/masked.hpp"

#include <heed/mod/neighborhood.hpp>

using namespace softmax_test;

TEST_CASE("neighborhood masks of rank 1 hide what they say") {
  check_mask(heed::neighborhood<1>({.length = 150, .window = 13}));
  check_mask(heed::neighborhood<1>({.length = 150, .window = 9, .stride = 4, .dilation = 3, .causal = true}));
  check_mask_in_window(heed::neighborhood<1>({.length = 40, .window = 8, .stride = 8}));
}

TEST_CASE("neighborhood masks of rank 2 hide what they say") {
  check_mask(heed::neighborhood<2>({{.length = 12, .window = 3}, {.length = 13, .window = 5}}));
  check_mask(
      heed::neighborhood<2>({{.length = 9, .window = 3, .causal = true}, {.length = 14, .window = 4, .dilation = 3}}));
}

TEST_CASE("neighborhood masks of rank 3 hide what they say") {
  check_mask(heed::neighborhood<3>(
      {{.length = 5, .window = 3, .causal = true}, {.length = 6, .window = 3}, {.length = 5, .window = 2}}));
}
