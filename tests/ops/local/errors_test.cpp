// What window and channel attention refuse.
#include "ops/local/channel.hpp"
#include "ops/local/swin.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

using namespace local_test;
using support::with_extents;

namespace {

/// A legal call of window attention, to be spoiled in one place.
struct swin_call {
  swin_call() : p({2, 4, 2, {9, 10}, {4, 5}, {1, 2}, true, true, 8, 6}) {
    q = p.q, k = p.k, v = p.v, dout = p.dout, saved = p.out;
    lse = p.lse;
    out = p.out, dq = p.dq, dk = p.dk, dv = p.dv;
    options = local_test::forward_options(p);
    backward = local_test::backward_options(p);
  }

  swin_problem<float> p;
  view<const float, 4> q, k, v, dout, saved;
  view<const float, 3> lse;
  view<float, 4> out, dq, dk, dv;
  swin_options<float> options;
  swin_backward_options<float> backward;
};

template <int Rank>
bool untouched(const tensor<float, Rank>& t) {
  return std::all_of(t.begin(), t.end(), [](float x) { return std::isnan(x); });
}

using spoiler = std::function<void(swin_call&)>;

void forward_refuses(const spoiler& spoil, const std::vector<std::string>& parts) {
  swin_call c;
  spoil(c);
  support::check_refusal("swin_forward", parts, [&] { heed::swin_forward(c.q, c.k, c.v, c.out, c.options); });
  CHECK(untouched(c.p.out));
  CHECK(untouched(c.p.lse));
}

void backward_refuses(const spoiler& spoil, const std::vector<std::string>& parts) {
  swin_call c;
  spoil(c);
  support::check_refusal("swin_backward", parts, [&] {
    heed::swin_backward(c.q, c.k, c.v, c.saved, c.lse, c.dout, c.dq, c.dk, c.dv, c.backward);
  });
  for (const tensor<float, 4>* t : {&c.p.dq, &c.p.dk, &c.p.dv}) CHECK(untouched(*t));
  for (const tensor<float, 2>* t : {&c.p.dtable, &c.p.dk_pad, &c.p.dv_pad}) CHECK(untouched(*t));
}

/// set(options) spoils the options of both passes.
template <class Set>
void both_refuse(const Set& set, const std::vector<std::string>& parts) {
  forward_refuses([&](swin_call& c) { set(c.options); }, parts);
  backward_refuses([&](swin_call& c) { set(c.backward); }, parts);
}

}  // namespace

TEST_CASE("legal calls of window attention are not refused") {
  swin_call c;
  CHECK_NOTHROW(heed::swin_forward(c.q, c.k, c.v, c.out, c.options));
  CHECK_NOTHROW(heed::swin_backward(c.q, c.k, c.v, c.saved, c.lse, c.dout, c.dq, c.dk, c.dv, c.backward));
  c.backward.dtable = c.backward.dk_pad = c.backward.dv_pad = {};
  CHECK_NOTHROW(heed::swin_backward(c.q, c.k, c.v, c.saved, c.lse, c.dout, c.dq, c.dk, c.dv, c.backward));
}

TEST_CASE("window attention refuses extents that do not fit") {
  forward_refuses([](swin_call& c) { c.q = with_extents(c.q, {2, 4, 90, 0}); }, {"q.extent(3) (D)", "got 0"});
  forward_refuses([](swin_call& c) { c.k = with_extents(c.k, {2, 3, 90, 8}); },
                  {"k.extent(1) (G)", "divisor of H = 4"});
  forward_refuses(
      [](swin_call& c) {
        c.k = with_extents(c.k, {2, 2, 80, 8});
        c.v = with_extents(c.v, {2, 2, 80, 6});
      },
      {"k.extent(2)", "90 (N, as q)", "got 80"});
  forward_refuses([](swin_call& c) { c.out = with_extents(c.out, {2, 4, 89, 6}); }, {"out.extent(2)", "got 89"});
  forward_refuses([](swin_call& c) { c.options.lse = with_extents(c.options.lse, {2, 4, 89}); },
                  {"options.lse.extent(2)"});
  backward_refuses([](swin_call& c) { c.dout = with_extents(c.dout, {2, 4, 90, 5}); }, {"dout.extent(3)", "E, as out"});
  backward_refuses([](swin_call& c) { c.lse = with_extents(c.lse, {2, 4, 89}); }, {"lse.extent(2)"});
  backward_refuses([](swin_call& c) { c.dk = with_extents(c.dk, {2, 2, 89, 8}); }, {"dk.extent(2)", "as k"});
  backward_refuses([](swin_call& c) { c.backward.dtable = with_extents(c.backward.dtable, {62, 4}); },
                   {"options.dtable.extent(0)", "63 (as options.table)"});
  backward_refuses([](swin_call& c) { c.backward.dk_pad = with_extents(c.backward.dk_pad, {2, 7}); },
                   {"options.dk_pad.extent(1)", "8 (as options.k_pad)"});
}

TEST_CASE("window attention refuses options out of range") {
  both_refuse([](auto& o) { o.tokens = token_grid{9, 9}; }, {"options.tokens", "a grid of 90 tokens", "got 9 x 9"});
  both_refuse([](auto& o) { o.tokens = token_grid{-9, -10}; }, {"options.tokens.height", "at least 1", "got -9"});
  both_refuse([](auto& o) { o.window = {0, 5}; }, {"options.window.height", "1 to 32768", "got 0"});
  both_refuse([](auto& o) { o.window = {4, 40000}; }, {"options.window.width", "1 to 32768", "got 40000"});
  both_refuse([](auto& o) { o.shift = {4, 0}; }, {"options.shift.y", "0 to 3", "got 4"});
  both_refuse([](auto& o) { o.shift = {0, -1}; }, {"options.shift.x", "0 to 4", "got -1"});
  both_refuse([](auto& o) { o.scale = INFINITY; }, {"options.scale", "a finite number", "got inf"});
  both_refuse([](auto& o) { o.window = {5, 5}; }, {"options.table.extent(0)", "81 (", "got 63"});
  both_refuse([](auto& o) { o.table = with_extents(o.table, {63, 2}); }, {"options.table.extent(1)", "4 (H, as q)"});
  both_refuse([](auto& o) { o.padding = static_cast<swin_padding>(7); },
              {"options.padding", "mask or attend", "got 7"});
  both_refuse([](auto& o) { o.padding = swin_padding::mask; }, {"options.k_pad", "none, as options.padding is mask"});
  both_refuse([](auto& o) { o.v_pad = {}; }, {"options.v_pad", "vectors, as options.padding is attend", "got none"});
  both_refuse([](auto& o) { o.k_pad = with_extents(o.k_pad, {4, 8}); }, {"options.k_pad.extent(0)", "2 (G, as k)"});
  backward_refuses([](swin_call& c) { c.backward.table = {}; }, {"options.dtable", "none without options.table"});
}

TEST_CASE("window attention refuses outputs that overlap an input, another output or themselves") {
  forward_refuses([](swin_call& c) { c.v = {c.out.data(), {2, 2, 90, 6}}; }, {"out: expected no overlap"});
  forward_refuses([](swin_call& c) { c.options.table = {c.out.data(), {63, 4}}; }, {"out: expected no overlap"});
  forward_refuses([](swin_call& c) { c.options.lse = {c.out.data(), {2, 4, 90}}; },
                  {"options.lse: expected no overlap"});
  backward_refuses([](swin_call& c) { c.backward.dtable = {c.dq.data(), {63, 4}}; },
                   {"options.dtable: expected no overlap"});
  backward_refuses([](swin_call& c) { c.backward.dv_pad = {c.backward.dk_pad.data(), {2, 6}}; },
                   {"options.dv_pad: expected no overlap"});
  backward_refuses([](swin_call& c) { c.backward.dtable = {c.p.dtable.data(), {63, 4}, {1, 0}}; },
                   {"options.dtable", "elements are distinct"});
}

TEST_CASE("channel attention refuses extents that do not fit, bad scales and outputs that overlap") {
  channel_problem<float> p({2, 3, 10, 4});
  const view<const float, 4> q = p.q, k = p.k, v = p.v, dout = p.dout;
  const auto forward = [&](const std::vector<std::string>& parts, view<const float, 4> a, view<const float, 4> b,
                           view<const float, 4> c, view<float, 4> out, const channel_options& o = {}) {
    support::check_refusal("channel_forward", parts, [&] { heed::channel_forward(a, b, c, out, o); });
    CHECK(untouched(p.out));
  };
  forward({"q.extent(3) (C)", "at least 1"}, with_extents(q, {2, 3, 10, 0}), k, v, p.out);
  forward({"k.extent(2)", "10 (as q)", "got 9"}, q, with_extents(k, {2, 3, 9, 4}), v, p.out);
  forward({"v.extent(3)", "4 (as q)", "got 3"}, q, k, with_extents(v, {2, 3, 10, 3}), p.out);
  forward({"out.extent(1)", "3 (as q)", "got 2"}, q, k, v, with_extents(p.out.all(), {2, 2, 10, 4}));
  forward({"options.scale", "a finite number"}, q, k, v, p.out, {.scale = NAN});
  forward({"out: expected no overlap"}, q, p.out, v, p.out);
  forward({"options.scratch", "got 1"}, q, k, v, p.out, {.scratch = {p.dq.data(), 1}});
  const auto backward = [&](const std::vector<std::string>& parts, view<const float, 4> d, view<float, 4> dq,
                            view<float, 4> dk, view<float, 4> dv) {
    support::check_refusal("channel_backward", parts, [&] { heed::channel_backward(q, k, v, d, dq, dk, dv); });
    for (const tensor<float, 4>* t : {&p.dq, &p.dk, &p.dv}) CHECK(untouched(*t));
  };
  backward({"dout.extent(2)", "10 (as q)", "got 9"}, with_extents(dout, {2, 3, 9, 4}), p.dq, p.dk, p.dv);
  backward({"dk.extent(3)", "4 (as q)", "got 5"}, dout, p.dq, with_extents(p.dk.all(), {2, 3, 10, 5}), p.dv);
  backward({"dv: expected no overlap"}, dout, p.dq, p.dk, p.dq);
  backward({"dq: expected no overlap"}, p.dq, p.dq, p.dk, p.dv);
}
