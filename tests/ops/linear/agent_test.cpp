// Agent attention against its definition, and what follows from the definition.
#include "ops/linear/agent.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"
#include "support/guarded.hpp"

#include <cstdint>
#include <vector>

using namespace linear_test;
using support::copy_into;

namespace {

std::vector<agent_shape> shapes() {
  if (support::small_grid())
    return {{2, 4, 2, 17, 3, 21, 7, 5}, {1, 1, 1, 0, 2, 9, 8, 8}, {1, 2, 1, 65, 9, 70, 16, 33}};
  return {{1, 1, 1, 1, 1, 1, 1, 1},   {2, 4, 2, 17, 3, 21, 7, 5},     {1, 2, 2, 0, 2, 9, 8, 8},
          {1, 2, 1, 9, 5, 0, 8, 8},   {2, 3, 1, 130, 49, 65, 16, 33}, {1, 2, 2, 200, 9, 300, 64, 64},
          {1, 1, 1, 3, 130, 2, 3, 1}, {3, 2, 2, 64, 16, 16, 33, 3},   {0, 2, 1, 5, 2, 5, 8, 8}};
}

/// None, both, one each with lengths.
template <class S>
agent_options<S> options_of(const agent_problem<S>& p, int round, const std::vector<std::int32_t>& lengths) {
  agent_options<S> o;
  if (round % 2 == 1) o.agent_bias = p.agent_bias;
  if (round == 1 || round == 2) o.query_bias = p.query_bias;
  if (round >= 2) {
    o.scale = 0.3;
    o.agent_scale = -0.5;
    o.kv_lengths = lengths;
  }
  return o;
}

template <class S, class A = heed::default_arch>
void check_shape(const agent_shape& s) {
  std::vector<std::int32_t> lengths;
  for (index_t b = 0; b < s.B; ++b) lengths.push_back(static_cast<std::int32_t>(b == 0 ? s.M / 2 : s.M));
  for (int round = 0; round < 4; ++round) {
    agent_problem<S> p(s);
    const agent_options<S> o = options_of(p, round, lengths);
    CAPTURE(heed::dtype_name<S>, A::name(), s.B, s.H, s.G, s.N, s.n, s.M, s.D, s.E, round);
    solve_on<A, S>(p, o);
    CHECK(error_of(p, o) <= 1);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("agent attention and its gradients agree with the definition", "", float, double, heed::bfloat16,
                   heed::float16) {
  for (const agent_shape& s : shapes()) check_shape<TestType>(s);
}

TEST_CASE("agent attention agrees with its definition on every distinct instruction set") {
  support::for_each_distinct_arch([](auto arch) { check_shape<float, decltype(arch)>({2, 4, 2, 70, 9, 150, 20, 33}); });
}

TEST_CASE("one agent gives every query the same output: what it gathered") {
  agent_problem<float> p({2, 2, 1, 40, 1, 70, 16, 12});
  solve<float>(p, {.agent_bias = p.agent_bias, .query_bias = p.query_bias});
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 40; ++i)
        for (index_t e = 0; e < 12; ++e) CHECK(p.out(b, h, i, e) == Catch::Approx(p.agent_values(b, h, 0, e)));
}

TEST_CASE("the order of agents, with the columns and rows of their biases, does not matter") {
  const agent_shape s{1, 2, 2, 33, 7, 50, 8, 8};
  agent_problem<double> p(s), permuted(s);
  for (index_t h = 0; h < 2; ++h)
    for (index_t l = 0; l < 7; ++l) {
      const index_t from = (3 * l + 2) % 7;
      copy_into<double, 1>(p.a.all()[0][h][from], permuted.a.all()[0][h][l]);
      copy_into<double, 1>(p.agent_bias.all()[0][h][from], permuted.agent_bias.all()[0][h][l]);
      for (index_t i = 0; i < 33; ++i) permuted.query_bias(0, h, i, l) = p.query_bias(0, h, i, from);
    }
  for (agent_problem<double>* x : {&p, &permuted})
    solve<double>(*x, {.agent_bias = x->agent_bias, .query_bias = x->query_bias});
  CHECK(error<double>(permuted.out, p.out) <= 1);
  CHECK(error<double>(permuted.dk, p.dk) <= 1);
}

TEST_CASE("with the keys as agents, each gathering its own value, it is softmax attention") {
  agent_problem<double> p({1, 2, 2, 30, 20, 20, 8, 5});
  p.a = p.k;
  p.agent_bias.fill(0);
  for (index_t h = 0; h < 2; ++h)
    for (index_t j = 0; j < 20; ++j) p.agent_bias(0, h, j, j) = 1e4;
  solve<double>(p, {.agent_bias = p.agent_bias, .query_bias = p.query_bias});
  reference::softmax_arguments call;
  call.bias = [&](int, int h, index_t i, index_t j) { return p.query_bias(0, h, i, j); };
  CHECK(error<double>(p.out, reference::softmax<double>(p.q, p.k, p.v, call).out) <= 1);
}

TEST_CASE("constant values come out of agent attention as they are") {
  agent_problem<double> p({2, 4, 2, 30, 5, 60, 8, 5});
  p.v.fill(2.5);
  solve<double>(p, {.agent_bias = p.agent_bias, .query_bias = p.query_bias});
  for (const double x : p.out) CHECK(x == Catch::Approx(2.5).epsilon(1e-12));
}

TEST_CASE("shared kv heads equal repeated ones for agent attention, and their gradients are sums") {
  agent_problem<double> shared({2, 6, 2, 20, 4, 50, 8, 5}), repeated({2, 6, 6, 20, 4, 50, 8, 5});
  repeated.q = shared.q;
  repeated.a = shared.a;
  repeated.dout = shared.dout;
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 6; ++h) {
      copy_into<double, 2>(shared.k.all()[b][h / 3], repeated.k.all()[b][h]);
      copy_into<double, 2>(shared.v.all()[b][h / 3], repeated.v.all()[b][h]);
    }
  solve<double>(shared);
  solve<double>(repeated);
  CHECK(same_bits<double, 4>(shared.out, repeated.out));
  tensor<double, 4> dk({2, 2, 50, 8});
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 6; ++h)
      for (index_t j = 0; j < 50; ++j)
        for (index_t d = 0; d < 8; ++d) dk(b, h / 3, j, d) += repeated.dk(b, h, j, d);
  CHECK(error<double>(shared.dk, dk) <= 1);
}
