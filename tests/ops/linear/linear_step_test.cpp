#include "ops/linear/feature_grid.hpp"
#include "support/guarded.hpp"

#include <heed/ops/linear/linear_step.hpp>

using namespace linear_test;

namespace {

template <class S>
heed::linear_step_options<S> step_options(const linear_options<S>& forward) {
  heed::linear_step_options<S> o;
  o.map = forward.map;
  o.normalise = forward.normalise;
  o.scale = forward.scale;
  o.eps = forward.eps;
  return o;
}

/// Takes the tokens of p, `together` at a time, into p's final sums, which start as the initial ones.
template <class S>
void step_through(feature_problem<S>& p, const linear_options<S>& options, index_t together) {
  p.final_state = p.initial_state;
  p.final_sum = p.initial_sum;
  const index_t N = p.q.extent(2);
  for (index_t t = 0; t < N; t += together) {
    const auto cut = [&](const auto& x) { return x.slice(2, t, std::min(N, t + together)); };
    heed::linear_step(cut(std::as_const(p.q).all()), cut(std::as_const(p.k).all()), cut(std::as_const(p.v).all()),
                      cut(p.out.all()), p.final_state,
                      options.normalise ? p.final_sum.all() : view<heed::accumulator_t<S>, 3>{}, step_options(options));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("linear_step token by token is the definition of the whole sequence", "", float, double,
                   heed::bfloat16) {
  using S = TestType;
  using T = heed::accumulator_t<S>;
  for (const feature_kind& kind : feature_kinds)
    for (const head_counts& heads : groupings)
      for (const index_t D : head_sizes)
        for (const index_t together : {1, 3}) {
          CAPTURE(static_cast<int>(kind.map), kind.normalise, heads.heads, heads.groups, D, together);
          feature_problem<S> p({2, heads.heads, heads.groups, 20, D, 40 - D / 2});
          linear_options<S> options = p.options(kind, true, true);
          if (D == 7) options.scale = 0.3;
          if (D == 16) options.eps = 0.25;
          const reference::linear_result expected = reference::linear(definition(p, options));
          step_through<S>(p, options, together);
          CHECK(error<S>(p.out, expected.out) <= 1);
          CHECK(error<T>(p.final_state, expected.final_state) <= 1);
          if (kind.normalise) CHECK(error<T>(p.final_sum, expected.final_sum) <= 1);
        }
}

TEST_CASE("linear_step continues linear_forward") {
  for (const feature_kind& kind : feature_kinds) {
    CAPTURE(static_cast<int>(kind.map), kind.normalise);
    feature_problem<float> whole({1, 4, 2, 101, 20, 12}), stepped({1, 4, 2, 101, 20, 12});
    solve<float>(whole, whole.options(kind, true));
    const auto head = [](const auto& t) { return t.slice(2, 0, 100); };
    const auto tail = [](const auto& t) { return t.slice(2, 100, 101); };
    linear_options<float> options = stepped.options(kind, true);
    options.final_state = stepped.final_state;
    if (kind.normalise) options.final_sum = stepped.final_sum;
    const auto &q = std::as_const(stepped.q), &k = std::as_const(stepped.k), &v = std::as_const(stepped.v);
    heed::linear_forward(head(q.all()), head(k.all()), head(v.all()), head(stepped.out.all()), options);
    heed::linear_step(tail(q.all()), tail(k.all()), tail(v.all()), tail(stepped.out.all()), stepped.final_state,
                      options.final_sum, step_options(options));
    CHECK(error<float>(stepped.out, reference::in_double(whole.out)) <= 1);
    CHECK(error<float>(stepped.final_state, reference::in_double(whole.final_state)) <= 1);
  }
}
