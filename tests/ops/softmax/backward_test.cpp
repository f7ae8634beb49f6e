#include "ops/softmax/backward.hpp"
#include "ops/softmax/option_rounds.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"

#include <heed/mod/masks.hpp>

#include <vector>

using namespace softmax_test;

namespace {

struct head_counts {
  index_t heads, groups;
};
constexpr head_counts groupings[] = {{2, 2}, {4, 2}, {3, 1}, {4, 1}, {1, 1}};

std::vector<index_t> lengths() {
  if (support::small_grid()) return {0, 1, 65};
  return {0, 1, 7, 64, 65, 129};
}

template <class S, class A>
void check_arch() {
  CAPTURE(A::name());
  using options_type = softmax_backward_options<S>;
  const index_t rounds = support::small_grid() ? 6 : 12;
  for_each_option<backward_problem<S>, options_type>(
      rounds, {.N = 130, .M = 200, .D = 70, .E = 70}, 31,
      [](backward_problem<S>& p, options_type options, index_t round) {
        if (round % 2 == 1) options.dlse = p.dlse;
        CHECK(gradient_error_on<A, S>(p, options, arguments_of<S>(options)) <= 1);
      });
}

}  // namespace

TEMPLATE_TEST_CASE("softmax_backward agrees with its definition for lengths and grouped heads", "", float, double) {
  using S = TestType;
  support::random_engine random(17);
  const std::vector<index_t> sizes{1, 3, 16, 33, 64, 80};
  unsigned seed = 0;
  for (const index_t N : lengths())
    for (const index_t M : lengths())
      for (const bool causal : {false, true}) {
        const auto size = [&] { return sizes[random() % sizes.size()]; };
        const head_counts heads = groupings[seed % std::size(groupings)];
        const shape s{1 + seed % 2, heads.heads, heads.groups, N, M, size(), size()};
        CAPTURE(s.B, s.H, s.G, s.N, s.M, s.D, s.E, causal);
        backward_problem<S> p(s, ++seed);
        CHECK((causal ? gradient_error<S>(p, {.dlse = p.dlse}, heed::causal{}) : gradient_error<S>(p)) <= 1);
      }
}

TEST_CASE("softmax_backward agrees with its definition where queries and keys are several tasks and blocks") {
  for (const bool causal : {false, true}) {
    backward_problem<float> p({1, 2, 1, 700, 300, 16, 8});
    CAPTURE(causal);
    CHECK((causal ? gradient_error<float>(p, {}, heed::causal{}) : gradient_error<float>(p)) <= 1);
  }
}

TEST_CASE("softmax_backward agrees with its definition on every distinct instruction set") {
  support::for_each_distinct_arch([](auto arch) { check_arch<float, decltype(arch)>(); });
  check_arch<double, heed::default_arch>();
}
