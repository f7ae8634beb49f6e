// Gated linear attention and Gated Slot Attention against what another implementation computed.
#include "golden/calls.hpp"
#include "ops/linear/gated_backward.hpp"
#include "ops/linear/gated_slot_backward.hpp"
#include "ops/linear/gated_slot_step.hpp"
#include "ops/linear/gated_step.hpp"
#include "support/catch.hpp"

#include <cmath>

using golden::stored_call;
using namespace linear_test;

namespace {

/// Of at most 9 tokens: one, several, and more than there are.
constexpr index_t chunks[] = {1, 4, 64};

double scale_of(const stored_call& c) {
  return c.number("scale", 1 / std::sqrt(static_cast<double>(c.get<double, 4>("q").extent(3))));
}

// ---- gated linear attention: tensors q, k, v, g, initial_state, out, final_state and a gradient d<name> of each

template <class S>
struct linear_case : backward_problem<S> {
  using T = typename problem<S>::T;

  explicit linear_case(const stored_call& c)
      : backward_problem<S>(shape_of(c)), kind(c.rank("g") == 4 ? gates::feature : gates::token) {
    this->q = c.get<S, 4>("q");
    this->k = c.get<S, 4>("k");
    this->v = c.get<S, 4>("v");
    if (kind == gates::feature)
      this->feature_gates = c.get<T, 4>("g");
    else
      this->token_gates = c.get<T, 3>("g");
    this->initial_state = c.get<T, 4>("initial_state");
    this->dout = c.get<S, 4>("dout");
    this->dfinal_state = c.get<T, 4>("dfinal_state");
  }

  static shape shape_of(const stored_call& c) {
    const auto q = c.get<double, 4>("q"), v = c.get<double, 4>("v");
    return {q.extent(0), q.extent(1), v.extent(1), q.extent(2), q.extent(3), v.extent(3)};
  }

  gates kind;
};

template <class S>
void check_result(const linear_case<S>& p, const stored_call& c) {
  using T = typename problem<S>::T;
  CHECK(error<S>(p.out, c.get<double, 4>("out")) <= 1);
  CHECK(error<T>(p.final_state, c.get<double, 4>("final_state")) <= 1);
}

template <class S>
void check_gradients(const linear_case<S>& p, const stored_call& c) {
  using T = typename problem<S>::T;
  CHECK(error<S>(p.dq, c.get<double, 4>("dq"), gradient_tolerance<S>) <= 1);
  CHECK(error<S>(p.dk, c.get<double, 4>("dk"), gradient_tolerance<S>) <= 1);
  CHECK(error<S>(p.dv, c.get<double, 4>("dv"), gradient_tolerance<S>) <= 1);
  CHECK(error<T>(p.dinitial_state, c.get<double, 4>("dinitial_state"), gradient_tolerance<T>) <= 1);
  if (p.kind == gates::feature)
    CHECK(error<T>(p.dfeature_gates, c.get<double, 4>("dg"), gate_gradient_tolerance<T>) <= 1);
  else
    CHECK(error<T>(p.dtoken_gates, c.get<double, 3>("dg"), gate_gradient_tolerance<T>) <= 1);
}

// ---- Gated Slot Attention: q, k, v, s, g, initial_keys, initial_values, out, final_keys, final_values and d<name>

template <class S>
struct slot_case : slot_backward_problem<S> {
  using T = typename slot_problem<S>::T;

  explicit slot_case(const stored_call& c) : slot_backward_problem<S>(shape_of(c)) {
    this->q = c.get<S, 4>("q");
    this->k = c.get<S, 4>("k");
    this->v = c.get<S, 4>("v");
    this->s = c.get<T, 4>("s");
    this->g = c.get<T, 4>("g");
    this->initial_keys = c.get<T, 4>("initial_keys");
    this->initial_values = c.get<T, 4>("initial_values");
    this->dout = c.get<S, 4>("dout");
    this->dfinal_keys = c.get<T, 4>("dfinal_keys");
    this->dfinal_values = c.get<T, 4>("dfinal_values");
  }

  static slot_shape shape_of(const stored_call& c) {
    const auto q = c.get<double, 4>("q"), v = c.get<double, 4>("v"), s = c.get<double, 4>("s");
    return {q.extent(0), q.extent(1), v.extent(1), q.extent(2), q.extent(3), v.extent(3), s.extent(3)};
  }
};

template <class S>
void check_result(const slot_case<S>& p, const stored_call& c) {
  using T = typename slot_problem<S>::T;
  CHECK(error<S>(p.out, c.get<double, 4>("out")) <= 1);
  CHECK(error<T>(p.final_keys, c.get<double, 4>("final_keys")) <= 1);
  CHECK(error<T>(p.final_values, c.get<double, 4>("final_values")) <= 1);
}

reference::gated_slot_gradients slot_gradients(const stored_call& c) {
  return {c.get<double, 4>("dq"),
          c.get<double, 4>("dk"),
          c.get<double, 4>("dv"),
          c.get<double, 4>("ds"),
          c.get<double, 4>("dg"),
          c.get<double, 4>("dinitial_keys"),
          c.get<double, 4>("dinitial_values")};
}

}  // namespace

TEMPLATE_TEST_CASE("gated_linear_forward, _backward and _step agree with golden cases", "", float, double) {
  using S = TestType;
  const auto cases = golden::read_calls("linear/gated_linear.txt");
  REQUIRE(cases.size() >= 7);
  for (const stored_call& c : cases) {
    INFO(c.name);
    const double scale = scale_of(c);
    for (const index_t chunk : chunks) {
      CAPTURE(chunk);
      linear_case<S> p(c);
      solve<S>(static_cast<problem<S>&>(p), p.kind, {.scale = scale, .chunk = chunk, .initial_state = p.initial_state});
      check_result(p, c);
      solve<S>(p, p.kind,
               {.scale = scale, .chunk = chunk, .initial_state = p.initial_state, .dfinal_state = p.dfinal_state});
      check_gradients(p, c);
    }
    linear_case<S> stepped(c);
    step_through<S>(stepped, stepped.kind, 1, {.scale = scale});
    check_result(stepped, c);
  }
}

TEMPLATE_TEST_CASE("gated_slot_forward, _backward and _step agree with golden cases", "", float, double) {
  using S = TestType;
  const auto cases = golden::read_calls("linear/gated_slot.txt");
  REQUIRE(cases.size() >= 4);
  for (const stored_call& c : cases) {
    INFO(c.name);
    const double scale = scale_of(c);
    for (const index_t chunk : chunks) {
      CAPTURE(chunk);
      slot_case<S> p(c);
      auto options = with_slots<S>(p, chunk);
      options.scale = scale;
      solve<S>(p, options);
      check_result(p, c);
      CHECK(error<S>(p, slot_gradients(c)) <= 1);
    }
    slot_case<S> stepped(c);
    step_through<S>(stepped, 1, {.scale = scale});
    check_result(stepped, c);
  }
}
