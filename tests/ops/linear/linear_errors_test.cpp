// What linear attention with feature maps refuses.
#include "ops/linear/feature_backward.hpp"
#include "support/refusal.hpp"

#include <heed/ops/linear/linear_step.hpp>

#include <cstdint>
#include <limits>
#include <vector>

using namespace linear_test;
using support::check_refusal;

namespace {

const feature_shape plain{2, 4, 2, 10, 8, 6};
constexpr feature_kind elu{feature_map::elu_plus_one, true}, bare{feature_map::identity, false};

/// change(problem, options) must make linear_forward refuse, and write nothing.
template <class Change>
void check_forward_refusal(const std::vector<std::string>& parts, const Change& change, feature_kind kind = elu) {
  feature_problem<float> p(plain);
  linear_options<float> options = p.options(kind, true);
  change(p, options);
  p.out = tensor<float, 4>::full({p.out.extent(0), p.out.extent(1), p.out.extent(2), p.out.extent(3)}, -7.f);
  check_refusal("linear_forward", parts, [&] { heed::linear_forward(p.q, p.k, p.v, p.out, options); });
  for (const float x : p.out) CHECK(x == -7.f);
}

}  // namespace

TEST_CASE("linear_forward refuses what it cannot work on") {
  using problem = feature_problem<float>;
  using options = linear_options<float>;
  check_forward_refusal({"k.extent(3)", "8"}, [](problem& p, options&) { p.k = tensor<float, 4>({2, 2, 10, 7}); });
  check_forward_refusal({"k.extent(1)", "divisor"},
                        [](problem& p, options&) { p.k = tensor<float, 4>({2, 3, 10, 8}); });
  check_forward_refusal({"v.extent(2)", "10"}, [](problem& p, options&) { p.v = tensor<float, 4>({2, 2, 9, 6}); });
  check_forward_refusal({"options.eps"}, [](problem&, options& o) { o.eps = -1; });
  check_forward_refusal({"options.eps"}, [](problem&, options& o) { o.eps = std::numeric_limits<double>::infinity(); });
  check_forward_refusal({"options.chunk"}, [](problem&, options& o) { o.chunk = 0; });
  check_forward_refusal({"options.map"}, [](problem&, options& o) { o.map = static_cast<feature_map>(9); });
  check_forward_refusal({"options.scale"}, [](problem&, options& o) { o.scale = std::nan(""); });
  check_forward_refusal({"options.scale", "above 0"}, [](problem&, options& o) { o.scale = 0.0; },
                        {feature_map::exp, true});
  check_forward_refusal({"options.q_offset", "M - N"}, [](problem&, options& o) { o.q_offset = 1; });
  check_forward_refusal({"options.q_offset", "causal"}, [](problem&, options& o) {
    o.causal = false;
    o.q_offset = 0;
  });
  check_forward_refusal({"options.initial_sum"}, [](problem& p, options& o) { o.initial_state = p.initial_state; });
  check_forward_refusal({"options.initial_state"}, [](problem& p, options& o) { o.initial_sum = p.initial_sum; });
  check_forward_refusal(
      {"options.initial_sum", "normalised"}, [](problem& p, options& o) { o.initial_sum = p.initial_sum; }, bare);
  check_forward_refusal(
      {"options.final_sum", "normalised"}, [](problem& p, options& o) { o.final_sum = p.final_sum; }, bare);
  check_forward_refusal(
      {"options.denominator", "normalised"}, [](problem& p, options& o) { o.denominator = p.denominator; }, bare);
  check_forward_refusal({"options.final_sum.extent(2)"}, [](problem& p, options& o) {
    p.final_sum = tensor<float, 3>({2, 2, 7});
    o.final_sum = p.final_sum;
  });
  check_forward_refusal({"options.final_state.extent(0)"}, [](problem& p, options& o) {
    p.final_state = tensor<float, 4>({1, 2, 8, 6});
    o.final_state = p.final_state;
  });
  check_forward_refusal({"options.denominator.extent(2)"}, [](problem& p, options& o) {
    p.denominator = tensor<float, 3>({2, 4, 9});
    o.denominator = p.denominator;
  });
  static const std::vector<std::int32_t> cu{0, 10};
  check_forward_refusal({"q.extent(0)", "packed"}, [](problem&, options& o) { o.cu_seqlens = cu; });
}

TEST_CASE("linear_forward refuses outputs that overlap") {
  feature_problem<float> p({2, 4, 2, 10, 8, 8});
  check_refusal("linear_forward", {"out", "overlap"}, [&] { heed::linear_forward(p.q, p.k, p.v, p.q); });
  linear_options<float> options = p.options(elu, true);
  options.denominator = p.out.all().slice(3, 0, 1).swap_axes(2, 3)[0].slice(0, 0, 1);
  CHECK_THROWS_AS(heed::linear_forward(p.q, p.k, p.v, p.out, options), heed::invalid_argument);
}

TEST_CASE("linear_backward refuses what it cannot work on") {
  feature_gradient_problem<float> p(plain);
  linear_backward_options<float> options;
  const auto call = [&] {
    heed::linear_backward(p.q, p.k, p.v, p.out, p.denominator, p.dout, p.dq, p.dk, p.dv, options);
  };
  const auto refusal = [&](const std::vector<std::string>& parts) { check_refusal("linear_backward", parts, call); };
  p.denominator = tensor<float, 3>({2, 4, 9});
  refusal({"denominator.extent(2)"});
  p.denominator = tensor<float, 3>({2, 4, 10});
  p.out = tensor<float, 4>({2, 4, 10, 5});
  refusal({"out.extent(3)"});
  p.out = tensor<float, 4>({2, 4, 10, 6});
  options.initial_state = p.initial_state;
  refusal({"options.initial_sum"});
  options.initial_state = {};
  options.q_offset = 0;
  refusal({"options.q_offset", "causal"});
  options.q_offset = {};
  p.dk = tensor<float, 4>({2, 2, 9, 8});
  refusal({"dk.extent(2)"});
  check_refusal("linear_backward", {"dq", "overlap"}, [&] {
    heed::linear_backward(p.q, p.k, p.v, p.out, p.denominator, p.dout, p.q, tensor<float, 4>({2, 2, 10, 8}), p.dv);
  });
}

TEST_CASE("linear_step refuses what it cannot work on") {
  feature_problem<float> p(plain);
  heed::linear_step_options<float> options;
  const auto call = [&] { heed::linear_step(p.q, p.k, p.v, p.out, p.final_state, p.final_sum, options); };
  check_refusal("linear_step", {"sum"},
                [&] { heed::linear_step(p.q, p.k, p.v, p.out, p.final_state, view<float, 3>{}, options); });
  options.normalise = false;
  check_refusal("linear_step", {"sum", "normalised"}, call);
  options.normalise = true;
  p.final_state = tensor<float, 4>({2, 2, 8, 5});
  check_refusal("linear_step", {"state.extent(3)"}, call);
  p.final_state = tensor<float, 4>({2, 2, 8, 6});
  p.k = tensor<float, 4>({2, 2, 9, 8});
  p.v = tensor<float, 4>({2, 2, 9, 6});
  check_refusal("linear_step", {"k.extent(2)"}, call);
}
