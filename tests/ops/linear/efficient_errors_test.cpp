#include "ops/linear/efficient.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

using namespace linear_test;
using support::with_extents;

namespace {

/// A legal call, to be spoiled in one place.
struct call {
  call() : p({2, 4, 2, 10, 20, 8, 6}) {
    q = p.q, k = p.k, v = p.v, dout = p.dout;
    saved_max = p.key_max, saved_sum = p.key_sum;
    out = p.out, dq = p.dq, dk = p.dk, dv = p.dv;
    options = {.key_max = p.key_max, .key_sum = p.key_sum};
  }

  efficient_problem<float> p;
  view<const float, 4> q, k, v, dout;
  view<const float, 3> saved_max, saved_sum;
  view<float, 4> out, dq, dk, dv;
  efficient_options<float> options;
  heed::efficient_backward_options<float> backward;
};

template <int Rank>
bool untouched(const tensor<float, Rank>& t) {
  return std::all_of(t.begin(), t.end(), [](float x) { return std::isnan(x); });
}

using spoiler = std::function<void(call&)>;

void forward_refuses(const spoiler& spoil, const std::vector<std::string>& parts) {
  call c;
  spoil(c);
  support::check_refusal("efficient_forward", parts, [&] { heed::efficient_forward(c.q, c.k, c.v, c.out, c.options); });
  CHECK(untouched(c.p.out));
  CHECK(untouched(c.p.key_max));
  CHECK(untouched(c.p.key_sum));
}

void backward_refuses(const spoiler& spoil, const std::vector<std::string>& parts) {
  call c;
  spoil(c);
  support::check_refusal("efficient_backward", parts, [&] {
    heed::efficient_backward(c.q, c.k, c.v, c.saved_max, c.saved_sum, c.dout, c.dq, c.dk, c.dv, c.backward);
  });
  for (const tensor<float, 4>* t : {&c.p.dq, &c.p.dk, &c.p.dv}) CHECK(untouched(*t));
}

/// Both forms.
void refuses(const spoiler& spoil, const std::vector<std::string>& parts) {
  forward_refuses(spoil, parts);
  backward_refuses(spoil, parts);
}

view<float, 4> writable(const float* data, const index_t (&extents)[4]) { return {const_cast<float*>(data), extents}; }

}  // namespace

TEST_CASE("a legal call of efficient attention is not refused") {
  call c;
  CHECK_NOTHROW(heed::efficient_forward(c.q, c.k, c.v, c.out, c.options));
  CHECK_NOTHROW(
      heed::efficient_backward(c.q, c.k, c.v, c.saved_max, c.saved_sum, c.dout, c.dq, c.dk, c.dv, c.backward));
  c.backward.mode = efficient_mode::scaling;
  CHECK_NOTHROW(heed::efficient_backward(c.q, c.k, c.v, {}, {}, c.dout, c.dq, c.dk, c.dv, c.backward));
}

TEST_CASE("efficient attention refuses extents that do not fit") {
  refuses([](call& c) { c.q = with_extents(c.q, {2, 4, 10, 0}); }, {"q.extent(3) (D)", "at least 1", "got 0"});
  refuses([](call& c) { c.k = with_extents(c.k, {2, 3, 20, 8}); }, {"k.extent(1) (G)", "a divisor of H = 4"});
  refuses([](call& c) { c.k = with_extents(c.k, {2, 2, 20, 7}); }, {"k.extent(3)", "8 (D, as q)", "got 7"});
  refuses([](call& c) { c.v = with_extents(c.v, {2, 2, 19, 6}); }, {"v.extent(2)", "20 (M, as k)", "got 19"});
  refuses([](call& c) { c.v = with_extents(c.v, {2, 2, 20, 5}); }, {"v.extent(3)", "6 (E, as out)", "got 5"});
  refuses([](call& c) { c.k = {nullptr, {2, 2, 20, 8}}; }, {"k", "data", "a null pointer"});
  refuses([](call& c) { c.q = {c.q.data(), {2, 4, 10, 8}, {320, 80, 1, 10}}; }, {"q", "a last axis of stride 1"});
  forward_refuses([](call& c) { c.out = with_extents(c.out, {2, 4, 9, 6}); }, {"out.extent(2)", "10 (N, as q)"});
  forward_refuses([](call& c) { c.options.key_max = with_extents(c.options.key_max, {2, 4, 8}); },
                  {"options.key_max.extent(1)", "2 (G, as k)", "got 4"});
  forward_refuses([](call& c) { c.options.key_sum = with_extents(c.options.key_sum, {2, 2, 7}); },
                  {"options.key_sum.extent(2)", "8 (D, as k)", "got 7"});
  backward_refuses([](call& c) { c.saved_max = {}; }, {"key_max.extent(0)", "2 (B, as k)"});
  backward_refuses([](call& c) { c.saved_sum = {nullptr, {2, 2, 8}}; }, {"key_sum", "data", "a null pointer"});
  backward_refuses([](call& c) { c.dout = with_extents(c.dout, {2, 4, 9, 6}); }, {"dout.extent(2)", "10 (N, as q)"});
  backward_refuses([](call& c) { c.dq = with_extents(c.dq, {2, 4, 10, 7}); }, {"dq.extent(3)", "8 (D, as q)"});
  backward_refuses([](call& c) { c.dk = with_extents(c.dk, {2, 2, 19, 8}); }, {"dk.extent(2)", "20 (as k)"});
  backward_refuses([](call& c) { c.dv = with_extents(c.dv, {2, 1, 20, 6}); }, {"dv.extent(1)", "2 (as v)"});
}

TEST_CASE("efficient attention refuses options out of range") {
  static constexpr std::array<std::int32_t, 2> long_lengths{20, 21};
  static constexpr std::array<std::int32_t, 1> one{20};
  forward_refuses([](call& c) { c.options.kv_lengths = long_lengths; },
                  {"options.kv_lengths", "0 to M = 20", "got 21"});
  backward_refuses([](call& c) { c.backward.kv_lengths = one; }, {"options.kv_lengths", "one for each batch entry"});
  forward_refuses([](call& c) { c.options.mode = static_cast<efficient_mode>(2); },
                  {"options.mode", "softmax or scaling", "got 2"});
  forward_refuses([](call& c) { c.options.mode = efficient_mode::scaling; },
                  {"options.key_max", "none in mode scaling", "an output"});
  const auto without_keys = [](call& c) {
    c.options = {.mode = efficient_mode::scaling};
    c.backward.mode = efficient_mode::scaling;
    c.k = with_extents(c.k, {2, 2, 0, 8});
    c.v = with_extents(c.v, {2, 2, 0, 6});
    c.dk = with_extents(c.dk, {2, 2, 0, 8});
    c.dv = with_extents(c.dv, {2, 2, 0, 6});
  };
  refuses(without_keys, {"k.extent(2) (M)", "at least 1 in mode scaling", "got 0"});
}

TEST_CASE("efficient attention refuses outputs that overlap an input, another output or themselves") {
  forward_refuses([](call& c) { c.options.key_sum = c.options.key_max; }, {"options.key_sum: expected no overlap"});
  forward_refuses([](call& c) { c.options.key_max = {c.out.data(), {2, 2, 8}}; },
                  {"options.key_max: expected no overlap"});
  forward_refuses([](call& c) { c.options.key_max = {c.p.key_max.data(), {2, 2, 8}, {0, 8, 1}}; },
                  {"options.key_max", "no broadcast axis in an output"});
  forward_refuses([](call& c) { c.q = {c.out.data(), {2, 4, 10, 8}}; }, {"out: expected no overlap"});
  backward_refuses([](call& c) { c.dk = writable(c.k.data(), {2, 2, 20, 8}); }, {"dk: expected no overlap"});
  backward_refuses([](call& c) { c.dv = writable(c.dq.data(), {2, 2, 20, 6}); }, {"dv: expected no overlap"});
  backward_refuses([](call& c) { c.dv = writable(c.dk.data(), {2, 2, 20, 6}); }, {"dv: expected no overlap"});
  backward_refuses([](call& c) { c.dq = {c.dq.data(), {2, 4, 10, 8}, {0, 80, 8, 1}}; }, {"dq: expected no broadcast"});
}
