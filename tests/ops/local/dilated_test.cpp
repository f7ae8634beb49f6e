// Dilated windows against softmax attention with the visible pairs spelled out.
#include "ops/local/dilated.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"

#include <heed/ops/softmax/backward.hpp>
#include <heed/ops/softmax/forward.hpp>

#include <vector>

using namespace local_test;

namespace {

struct dilation {
  index_t step, reach, q_offset, kv_offset;
};

/// Full classes and ragged ones, more classes than tokens, classes without a query or without a key.
std::vector<dilation> dilations() {
  if (support::small_grid()) return {{3, 20, 0, 0}, {7, -1, 11, -4}};
  return {{1, 9, 0, 0}, {2, 31, 0, 0}, {3, 20, 5, 2}, {7, -1, 11, -4}, {200, 3000, -3, 8}};
}

std::vector<shape> shapes() {
  if (support::small_grid()) return {{2, 4, 2, 29, 70, 7, 5}};
  return {{2, 4, 2, 29, 70, 7, 5},
          {1, 2, 1, 130, 260, 16, 9},
          {1, 1, 1, 1, 1, 3, 1},
          {1, 2, 2, 0, 9, 8, 8},
          {2, 2, 1, 9, 0, 8, 8}};
}

template <class S, class A = heed::default_arch>
void check_shape(const shape& s, const dilation& d) {
  for (const bool causal : {false, true}) {
    CAPTURE(heed::dtype_name<S>, A::name(), s.B, s.H, s.G, s.N, s.M, s.D, s.E, d.step, d.reach, d.q_offset, causal);
    backward_problem<S> p(s);
    const auto sink = heed::tensor<heed::accumulator_t<S>, 1>::full({s.H}, 0.5f);
    dilated_backward_options<S> o{.step = d.step, .reach = d.reach};
    if (causal) {
      o.scale = 0.4;
      o.softcap = 3;
      o.sink = sink;
      o.dlse = p.dlse;
    }
    o.q_offset = d.q_offset;
    o.kv_offset = d.kv_offset;
    // One type of mask, for the sake of compile time.
    const auto mask = heed::window{-1, causal ? 0 : -1} & heed::padding{causal ? 4 : -100, 1000};
    CHECK(dilated_error_on<A, S>(p, o, mask) <= 1);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("dilated windows and their gradients agree with the definition", "", float, double, heed::bfloat16) {
  for (const shape& s : shapes())
    for (const dilation& d : dilations()) check_shape<TestType>(s, d);
}

TEMPLATE_TEST_CASE("dilated windows agree with their definition on every distinct instruction set", "", float) {
  support::for_each_distinct_arch(
      [](auto arch) { check_shape<TestType, decltype(arch)>({1, 2, 1, 130, 150, 9, 5}, {3, 60, 2, 0}); });
}

TEST_CASE("with step 1 a dilated window is the plain window, bit for bit") {
  backward_problem<float> p({2, 4, 2, 150, 190, 16, 9}), plain = p;
  solve_dilated<float>(p, {.reach = 33});
  softmax_test::solve<float>(plain, {.window_left = 33, .window_right = 33});
  CHECK(same_passes(p, plain));
}

TEST_CASE("a dilated window sees what the mask heed::dilated shows") {
  for (const int step : {2, 5, 64})
    for (const int reach : {0, 17, 400}) {
      CAPTURE(step, reach);
      backward_problem<float> p({1, 2, 1, 150, 190, 8, 5}), masked = p;
      solve_dilated<float>(p, {.step = step, .reach = reach}, heed::causal{});
      softmax_test::solve<float>(masked, {}, heed::causal{} & heed::dilated{reach, step});
      const auto close = [](const auto& a, const auto& b) {
        for (index_t i = 0; i < a.size(); ++i)
          if (!(a.data()[i] == b.data()[i] || std::fabs(a.data()[i] - b.data()[i]) <= 1e-5f)) return false;
        return true;
      };
      CHECK(close(p.out, masked.out));
      CHECK(close(p.lse, masked.lse));
      CHECK(close(p.dq, masked.dq));
      CHECK(close(p.dk, masked.dk));
      CHECK(close(p.dv, masked.dv));
    }
}

TEST_CASE("a window that reaches every key is attention to all of them") {
  backward_problem<float> p({1, 2, 1, 40, 190, 8, 5}), all = p;
  solve_dilated<float>(p, {.reach = 190});
  softmax_test::solve<float>(all, {});
  CHECK(same_passes(p, all));
}

TEST_CASE("a causal window of reach 0, and a step beyond all distances, give the values themselves") {
  for (const auto& [step, reach] : {std::pair<index_t, index_t>{1, 0}, {4, 3}, {1000, -1}}) {
    backward_problem<float> p({2, 2, 2, 70, 70, 8, 5});
    solve_dilated<float>(p, {.step = step, .reach = reach}, heed::causal{});
    CHECK(support::same_bits<float, 4>(p.out, p.v));
    for (index_t i = 0; i < p.dv.size(); ++i) CHECK(p.dv.data()[i] == Catch::Approx(p.dout.data()[i]).epsilon(1e-5));
  }
}
