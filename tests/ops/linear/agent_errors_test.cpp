#include "ops/linear/agent.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

using namespace linear_test;
using support::with_extents;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// A legal call, to be spoiled in one place.
struct call {
  call() : p({2, 4, 2, 10, 3, 20, 8, 6}) {
    q = p.q, a = p.a, k = p.k, v = p.v, saved_out = p.out, saved_values = p.agent_values, dout = p.dout;
    saved_agent_lse = p.agent_lse, saved_lse = p.lse;
    out = p.out, dq = p.dq, da = p.da, dk = p.dk, dv = p.dv;
    options = {.agent_bias = p.agent_bias,
               .query_bias = p.query_bias,
               .agent_values = p.agent_values,
               .agent_lse = p.agent_lse,
               .lse = p.lse};
    backward = backward_options(p, options);
  }

  agent_problem<float> p;
  view<const float, 4> q, a, k, v, saved_out, saved_values, dout;
  view<const float, 3> saved_agent_lse, saved_lse;
  view<float, 4> out, dq, da, dk, dv;
  agent_options<float> options;
  agent_backward_options<float> backward;
};

bool untouched(const tensor<float, 4>& t) {
  return std::all_of(t.begin(), t.end(), [](float x) { return std::isnan(x); });
}

using spoiler = std::function<void(call&)>;

void forward_refuses(const spoiler& spoil, const std::vector<std::string>& parts) {
  call c;
  spoil(c);
  support::check_refusal("agent_forward", parts, [&] { heed::agent_forward(c.q, c.a, c.k, c.v, c.out, c.options); });
  CHECK(untouched(c.p.out));
  CHECK(untouched(c.p.agent_values));
  CHECK(std::isnan(c.p.lse(0, 0, 0)));
}

void backward_refuses(const spoiler& spoil, const std::vector<std::string>& parts) {
  call c;
  spoil(c);
  support::check_refusal("agent_backward", parts, [&] {
    heed::agent_backward(c.q, c.a, c.k, c.v, c.saved_out, c.saved_values, c.saved_agent_lse, c.saved_lse, c.dout, c.dq,
                         c.da, c.dk, c.dv, c.backward);
  });
  for (const tensor<float, 4>* t : {&c.p.dq, &c.p.da, &c.p.dk, &c.p.dv, &c.p.dagent_bias, &c.p.dquery_bias})
    CHECK(untouched(*t));
}

/// Both forms.
void refuses(const spoiler& spoil, const std::vector<std::string>& parts) {
  forward_refuses(spoil, parts);
  backward_refuses(spoil, parts);
}

view<float, 4> writable(const view<const float, 4>& t, const index_t (&extents)[4]) {
  return {const_cast<float*>(t.data()), extents};
}

}  // namespace

TEST_CASE("a legal call of agent attention is not refused") {
  call c;
  CHECK_NOTHROW(heed::agent_forward(c.q, c.a, c.k, c.v, c.out, c.options));
  CHECK_NOTHROW(heed::agent_backward(c.q, c.a, c.k, c.v, c.saved_out, c.saved_values, c.saved_agent_lse, c.saved_lse,
                                     c.dout, c.dq, c.da, c.dk, c.dv, c.backward));
}

TEST_CASE("agent attention refuses extents that do not fit") {
  refuses([](call& c) { c.a = with_extents(c.a, {1, 4, 3, 8}); }, {"a.extent(0)", "2 (B, as q)", "got 1"});
  refuses([](call& c) { c.a = with_extents(c.a, {2, 2, 3, 8}); }, {"a.extent(1)", "4 (H, as q)", "got 2"});
  refuses([](call& c) { c.a = with_extents(c.a, {2, 4, 0, 8}); }, {"a.extent(2) (n)", "at least 1", "got 0"});
  refuses([](call& c) { c.a = with_extents(c.a, {2, 4, 3, 7}); }, {"a.extent(3)", "8 (D, as q)", "got 7"});
  refuses([](call& c) { c.k = with_extents(c.k, {2, 3, 20, 8}); }, {"k.extent(1) (G)", "a divisor of H = 4"});
  refuses([](call& c) { c.v = with_extents(c.v, {2, 2, 19, 6}); }, {"v.extent(2)", "20 (M, as k)", "got 19"});
  const auto narrow = [](const view<const float, 4>& bias, const index_t(&extents)[4]) {
    return with_extents(bias, extents);
  };
  forward_refuses([&](call& c) { c.options.agent_bias = narrow(c.options.agent_bias, {1, 4, 3, 19}); },
                  {"options.agent_bias.extent(3)", "1 or 20", "got 19"});
  forward_refuses([&](call& c) { c.options.query_bias = narrow(c.options.query_bias, {1, 4, 9, 3}); },
                  {"options.query_bias.extent(2)", "1 or 10", "got 9"});
  backward_refuses([&](call& c) { c.backward.query_bias = narrow(c.backward.query_bias, {1, 4, 10, 2}); },
                   {"options.query_bias.extent(3)", "1 or 3", "got 2"});
  forward_refuses([](call& c) { c.options.agent_values = with_extents(c.options.agent_values, {2, 4, 3, 5}); },
                  {"options.agent_values.extent(3)", "6 (E, as out)", "got 5"});
  forward_refuses([](call& c) { c.options.agent_lse = with_extents(c.options.agent_lse, {2, 4, 2}); },
                  {"options.agent_lse.extent(2)", "3 (as a)", "got 2"});
  forward_refuses([](call& c) { c.options.lse = with_extents(c.options.lse, {2, 4, 9}); }, {"options.lse.extent(2)"});
  backward_refuses([](call& c) { c.saved_values = with_extents(c.saved_values, {2, 4, 2, 6}); },
                   {"agent_values.extent(2)", "3 (as a)"});
  backward_refuses([](call& c) { c.saved_agent_lse = with_extents(c.saved_agent_lse, {2, 4, 2}); },
                   {"agent_lse.extent(2)", "3 (as a)"});
  backward_refuses([](call& c) { c.saved_agent_lse = {nullptr, {2, 4, 3}}; }, {"agent_lse", "data", "a null pointer"});
  backward_refuses([](call& c) { c.da = with_extents(c.da, {2, 4, 2, 8}); }, {"da.extent(2)", "3 (as a)", "got 2"});
  backward_refuses([](call& c) { c.dk = with_extents(c.dk, {2, 2, 19, 8}); }, {"dk.extent(2)", "20 (as k)"});
  backward_refuses([](call& c) { c.backward.dagent_bias = with_extents(c.backward.dagent_bias, {1, 4, 3, 19}); },
                   {"options.dagent_bias.extent(3)", "20 (as options.agent_bias)"});
}

TEST_CASE("agent attention refuses options out of range") {
  forward_refuses([](call& c) { c.options.scale = infinity; }, {"options.scale", "a finite number"});
  forward_refuses([](call& c) { c.options.agent_scale = -infinity; }, {"options.agent_scale", "a finite number"});
  backward_refuses([](call& c) { c.backward.agent_scale = infinity; }, {"options.agent_scale", "a finite number"});
  static constexpr std::array<std::int32_t, 2> long_lengths{20, 21};
  static constexpr std::array<std::int32_t, 1> one{20};
  forward_refuses([](call& c) { c.options.kv_lengths = long_lengths; },
                  {"options.kv_lengths", "0 to M = 20", "got 21"});
  backward_refuses([](call& c) { c.backward.kv_lengths = one; }, {"options.kv_lengths", "one for each batch entry"});
  backward_refuses([](call& c) { c.backward.agent_bias = {}; }, {"options.dagent_bias", "none without a bias"});
  backward_refuses([](call& c) { c.backward.query_bias = {}; }, {"options.dquery_bias", "none without a bias"});
}

TEST_CASE("agent attention refuses outputs that overlap an input, another output or themselves") {
  forward_refuses([](call& c) { c.options.agent_values = writable(c.a, {2, 4, 3, 6}); },
                  {"options.agent_values: expected no overlap"});
  forward_refuses([](call& c) { c.options.agent_values = writable(c.out, {2, 4, 3, 6}); },
                  {"options.agent_values: expected no overlap"});
  forward_refuses([](call& c) { c.options.lse = view<float, 3>(c.p.agent_lse.data(), {2, 4, 10}); },
                  {"options.lse: expected no overlap"});
  forward_refuses([](call& c) { c.out = view<float, 4>(c.out.data(), {2, 4, 10, 6}, {0, 60, 6, 1}); },
                  {"out: expected no broadcast"});
  backward_refuses([](call& c) { c.da = writable(c.dq, {2, 4, 3, 8}); }, {"da: expected no overlap"});
  backward_refuses([](call& c) { c.da = writable(c.a, {2, 4, 3, 8}); }, {"da: expected no overlap"});
  backward_refuses([](call& c) { c.dk = writable(c.saved_values, {2, 2, 20, 8}); }, {"dk: expected no overlap"});
  backward_refuses([](call& c) { c.backward.dquery_bias = writable(c.dv, {1, 4, 10, 3}); },
                   {"options.dquery_bias: expected no overlap"});
}
