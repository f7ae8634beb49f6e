// What every operator promises, of agent attention: what is excluded is unread, strides do not matter, nor do
// workers.
#include "ops/linear/agent.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/shuffling_executor.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

using namespace linear_test;
using support::guarded;
using support::laid_out;
using support::layout;

namespace {

constexpr agent_shape usual{2, 4, 2, 150, 9, 170, 24, 20};
constexpr float infinity = std::numeric_limits<float>::infinity();

template <class S>
bool all_finite(const tensor<S, 4>& t) {
  return std::all_of(t.begin(), t.end(), [](S x) { return std::isfinite(static_cast<double>(x)); });
}

}  // namespace

TEMPLATE_TEST_CASE("keys and values past the lengths are not read by agent attention, and have no gradient", "", float,
                   heed::bfloat16) {
  const std::vector<std::int64_t> lengths{100, 0};
  agent_problem<TestType> clean(usual);
  const auto bias = [](auto& p) { return agent_options<TestType>{.agent_bias = p.agent_bias}; };
  const auto solve_it = [&](agent_problem<TestType>& p) {
    auto o = bias(p);
    o.kv_lengths = lengths;
    solve(p, o);
  };
  solve_it(clean);
  for (const TestType poison : {support::quiet_nan<TestType>, TestType(infinity), TestType(-infinity)}) {
    agent_problem<TestType> p(usual);
    for (index_t b = 0; b < 2; ++b)
      for (index_t g = 0; g < 2; ++g)
        for (index_t j = lengths[static_cast<std::size_t>(b)]; j < usual.M; ++j) {
          for (index_t d = 0; d < usual.D; ++d) p.k(b, g, j, d) = poison;
          for (index_t e = 0; e < usual.E; ++e) p.v(b, g, j, e) = poison;
        }
    solve_it(p);
    CHECK(same_result(p, clean));
  }
  CHECK(all_finite(clean.dq));
  for (index_t i = 0; i < usual.N; ++i) CHECK(static_cast<double>(clean.out(1, 0, i, 0)) == 0);
  for (index_t l = 0; l < usual.n; ++l) CHECK(clean.agent_lse(1, 0, l) == -infinity);
  for (index_t j = 100; j < usual.M; ++j) CHECK(static_cast<double>(clean.dk(0, 1, j, 3)) == 0);
}

TEST_CASE("an agent without keys has the value 0 and is read as that; a query without agents is 0") {
  agent_problem<float> p(usual);
  for (index_t j = 0; j < usual.M; ++j) p.agent_bias(0, 1, 3, j) = -infinity;
  for (index_t l = 0; l < usual.n; ++l) p.query_bias(0, 2, 5, l) = -infinity;
  solve<float>(p, {.agent_bias = p.agent_bias, .query_bias = p.query_bias});
  for (index_t b = 0; b < 2; ++b) {
    CHECK(p.agent_lse(b, 1, 3) == -infinity);
    CHECK(p.agent_values(b, 1, 3, 0) == 0);
    CHECK(p.lse(b, 2, 5) == -infinity);
    CHECK(p.out(b, 2, 5, 7) == 0);
  }
  for (const tensor<float, 4>* t : {&p.out, &p.dq, &p.da, &p.dk, &p.dv}) CHECK(all_finite(*t));
}

TEMPLATE_TEST_CASE("strides change no bit of agent attention, and nothing outside its tensors is touched", "", float,
                   heed::bfloat16) {
  using S = TestType;
  const agent_shape s{2, 4, 2, 19, 5, 37, 24, 17};
  agent_problem<S> dense(s);
  solve<S>(dense, {.agent_bias = dense.agent_bias, .query_bias = dense.query_bias});
  for (const layout where : support::layouts) {
    CAPTURE(static_cast<int>(where));
    const auto q = laid_out(dense.q, where), a = laid_out(dense.a, where), k = laid_out(dense.k, where);
    const auto v = laid_out(dense.v, where), dout = laid_out(dense.dout, where);
    const auto agent_bias = laid_out(dense.agent_bias, where), query_bias = laid_out(dense.query_bias, where);
    const auto blank = [&](const tensor<S, 4>& like) {
      return guarded<S, 4>({like.extent(0), like.extent(1), like.extent(2), like.extent(3)}, where,
                           support::quiet_nan<S>, S(-777));
    };
    auto out = blank(dense.out), values = blank(dense.agent_values), dq = blank(dense.dq), da = blank(dense.da);
    auto dk = blank(dense.dk), dv = blank(dense.dv), db1 = blank(dense.dagent_bias), db2 = blank(dense.dquery_bias);
    heed::agent_forward(q.all(), a.all(), k.all(), v.all(), out.all(),
                        {.agent_bias = agent_bias.all(),
                         .query_bias = query_bias.all(),
                         .agent_values = values.all(),
                         .agent_lse = dense.agent_lse,
                         .lse = dense.lse});
    heed::agent_backward(q.all(), a.all(), k.all(), v.all(), out.all(), values.all(), dense.agent_lse, dense.lse,
                         dout.all(), dq.all(), da.all(), dk.all(), dv.all(),
                         {.agent_bias = agent_bias.all(),
                          .dagent_bias = db1.all(),
                          .query_bias = query_bias.all(),
                          .dquery_bias = db2.all()});
    const auto check = [](guarded<S, 4>& got, const tensor<S, 4>& expected) {
      CHECK(same_bits<S, 4>(got.all(), expected));
      CHECK(got.intact());
    };
    check(out, dense.out);
    check(values, dense.agent_values);
    check(dq, dense.dq);
    check(da, dense.da);
    check(dk, dense.dk);
    check(dv, dense.dv);
    check(db1, dense.dagent_bias);
    check(db2, dense.dquery_bias);
  }
}

TEST_CASE("agent attention is bit-equal in whatever order and by whatever worker tasks are run") {
  for (const agent_shape& s :
       {usual, agent_shape{1, 1, 1, 600, 49, 500, 16, 8}, agent_shape{1, 2, 1, 0, 3, 20, 8, 8}}) {
    agent_problem<float> alone(s);
    const auto with = [](agent_problem<float>& p, heed::executor_ref where) {
      solve<float>(p, {.agent_bias = p.agent_bias, .query_bias = p.query_bias, .executor = where});
    };
    with(alone, heed::serial());
    const auto check = [&](heed::executor_ref where, const char* name) {
      agent_problem<float> p(s);
      with(p, where);
      CAPTURE(name, where.concurrency, s.N);
      CHECK(same_result(p, alone));
    };
    support::for_each_executor(check);
#if defined(_OPENMP)
    for (int threads = 1; threads <= 5; ++threads) check(heed::openmp(threads), "openmp");
#endif
  }
}
