// Window attention against its definition, and what follows from the definition.
#include "ops/local/swin.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"
#include "support/guarded.hpp"

#include <limits>
#include <vector>

using namespace local_test;
using support::copy_into;

namespace {

/// Whole and cut windows, missing places in the last and the last two windows of an axis, lines, one window an axis,
/// more than a tile of queries and more than a block of keys, grouped heads, nothing.
std::vector<swin_shape> shapes() {
  if (support::small_grid())
    return {{1, 2, 1, {9, 7}, {4, 3}, {3, 2}, true, true, 5, 9}, {1, 1, 1, {14, 7}, {7, 7}, {3, 3}, true, false, 8, 8}};
  return {
      {2, 2, 1, {14, 14}, {7, 7}, {3, 3}, true, false, 12, 9}, {1, 2, 2, {14, 7}, {7, 7}, {0, 0}, false, false, 32, 32},
      {1, 4, 2, {9, 13}, {4, 5}, {1, 4}, true, false, 5, 7},   {2, 2, 1, {9, 13}, {4, 5}, {3, 4}, true, true, 8, 3},
      {1, 2, 2, {5, 6}, {7, 4}, {2, 1}, true, true, 8, 8},     {1, 1, 1, {1, 40}, {1, 9}, {0, 5}, false, true, 3, 1},
      {1, 2, 1, {3, 3}, {2, 2}, {1, 1}, true, false, 1, 1},    {1, 1, 1, {17, 23}, {15, 16}, {8, 9}, true, false, 8, 8},
      {1, 1, 1, {4, 4}, {1, 1}, {0, 0}, true, false, 4, 4},    {0, 2, 1, {4, 4}, {2, 2}, {1, 1}, true, false, 4, 4},
      {1, 0, 0, {4, 4}, {2, 2}, {1, 1}, true, false, 4, 4},    {1, 1, 1, {7, 7}, {7, 7}, {0, 0}, true, false, 104, 40}};
}

template <class S, class A = heed::default_arch>
void check_shape(const swin_shape& s) {
  swin_problem<S> p(s);
  CAPTURE(heed::dtype_name<S>, A::name(), s.B, s.H, s.tokens.height, s.tokens.width, s.window.height, s.window.width,
          s.shift.y, s.shift.x, s.table, s.attends, s.D, s.E);
  solve_on<A, S>(p);
  CHECK(error_of(p) <= 1);
}

}  // namespace

TEMPLATE_TEST_CASE("window attention and its gradients agree with the definition", "", float, double, heed::bfloat16,
                   heed::float16) {
  for (const swin_shape& s : shapes()) check_shape<TestType>(s);
}

TEST_CASE("window attention agrees with its definition on every distinct instruction set") {
  support::for_each_distinct_arch(
      [](auto arch) { check_shape<float, decltype(arch)>({1, 2, 1, {9, 10}, {7, 4}, {3, 1}, true, true, 12, 9}); });
}
