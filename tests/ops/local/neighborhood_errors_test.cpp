#include "ops/local/neighborhood.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

using namespace neighborhood_test;
using support::with_extents;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// A legal call, to be spoiled in one place.
struct call {
  call() : p({{{5, 3}, {6, 2}}, 2, 4, 2, 8, 6, 3, true}) {
    axes = p.of.axes;
    q = p.q, k = p.k, v = p.v, saved_out = p.out, dout = p.dout, saved_lse = p.lse;
    out = p.out, dq = p.dq, dk = p.dk, dv = p.dv;
    forward = p.forward_options();
    backward = p.backward_options();
  }

  problem<float> p;
  axes_list axes;
  view<const float, 4> q, k, v, saved_out, dout;
  view<const float, 3> saved_lse;
  view<float, 4> out, dq, dk, dv;
  neighborhood_options<float> forward;
  neighborhood_backward_options<float> backward;
};

template <int Rank>
bool untouched(const tensor<float, Rank>& t) {
  return std::all_of(t.begin(), t.end(), [](float x) { return std::isnan(x); });
}

using spoiler = std::function<void(call&)>;

void forward_refuses(const spoiler& spoil, const std::vector<std::string>& parts) {
  call c;
  spoil(c);
  support::check_refusal("neighborhood_forward", parts, [&] {
    heed::neighborhood_forward(c.q, c.k, c.v, c.out, std::span<const neighborhood_axis>(c.axes), c.forward);
  });
  CHECK(untouched(c.p.out));
  CHECK(untouched(c.p.lse));
}

void backward_refuses(const spoiler& spoil, const std::vector<std::string>& parts) {
  call c;
  spoil(c);
  support::check_refusal("neighborhood_backward", parts, [&] {
    heed::neighborhood_backward(c.q, c.k, c.v, c.saved_out, c.saved_lse, c.dout, c.dq, c.dk, c.dv,
                                std::span<const neighborhood_axis>(c.axes), c.backward);
  });
  for (const auto* t : {&c.p.dq, &c.p.dk, &c.p.dv, &c.p.dk_extra, &c.p.dv_extra}) CHECK(untouched(*t));
  CHECK(untouched(c.p.dbias));
}

void both_refuse(const spoiler& spoil, const std::vector<std::string>& parts) {
  forward_refuses(spoil, parts);
  backward_refuses(spoil, parts);
}

}  // namespace

TEST_CASE("the legal call that the others spoil is one") {
  call c;
  CHECK_NOTHROW(
      heed::neighborhood_forward(c.q, c.k, c.v, c.out, std::span<const neighborhood_axis>(c.axes), c.forward));
  CHECK_NOTHROW(heed::neighborhood_backward(c.q, c.k, c.v, c.saved_out, c.saved_lse, c.dout, c.dq, c.dk, c.dv,
                                            std::span<const neighborhood_axis>(c.axes), c.backward));
}

TEST_CASE("neighborhood attention refuses axes that are none") {
  both_refuse([](call& c) { c.axes.clear(); }, {"axes", "1 to 3", "got 0"});
  both_refuse([](call& c) { c.axes = {{5, 3}, {3, 2}, {2, 2}, {2, 2}}; }, {"axes", "1 to 3", "got 4"});
  both_refuse([](call& c) { c.axes[1].window = 1; }, {"axes[1].window", "at least 2", "got 1"});
  both_refuse([](call& c) { c.axes[0].stride = 4; }, {"axes[0].stride", "1..window", "got 4"});
  both_refuse([](call& c) { c.axes[0].stride = 0; }, {"axes[0].stride", "1..window", "got 0"});
  both_refuse([](call& c) { c.axes[1].dilation = 0; }, {"axes[1].dilation", "at least 1", "got 0"});
  both_refuse([](call& c) { c.axes[1].dilation = 4; }, {"axes[1].length", "at least window * dilation", "got 6"});
  both_refuse([](call& c) { c.axes[0].length = 1; }, {"axes[0].length", "got 1"});
  both_refuse([](call& c) { c.axes[0].length = 4; }, {"q.extent(2) (N)", "24", "got 30"});
  both_refuse([](call& c) { c.axes = {{1 << 20, 3}, {1 << 20, 3}}; }, {"axes", "at most 2^30 - 1 tokens"});
}

TEST_CASE("neighborhood attention refuses tensors that do not fit each other") {
  both_refuse([](call& c) { c.q = with_extents(c.q, {2, 4, 30, 0}); }, {"q.extent(3) (D)", "at least 1"});
  both_refuse([](call& c) { c.k = with_extents(c.k, {1, 2, 30, 8}); }, {"k.extent(0)", "B"});
  both_refuse([](call& c) { c.k = with_extents(c.k, {2, 3, 30, 8}); }, {"k.extent(1)", "divisor of H"});
  both_refuse(
      [](call& c) {
        c.k = with_extents(c.k, {2, 2, 29, 8});
        c.v = with_extents(c.v, {2, 2, 29, 6});
      },
      {"k.extent(2)", "30", "got 29"});
  both_refuse([](call& c) { c.k = with_extents(c.k, {2, 2, 30, 7}); }, {"k.extent(3)", "8", "got 7"});
  both_refuse([](call& c) { c.v = with_extents(c.v, {2, 2, 30, 5}); }, {"v.extent(3)", "6", "got 5"});
  both_refuse([](call& c) { c.k = {}; }, {"k"});
  both_refuse([](call& c) { c.v = view<const float, 4>(c.v.data(), {2, 2, 30, 6}, {400, 200, 1, 30}); },
              {"v", "last axis of stride 1"});
  forward_refuses([](call& c) { c.out = with_extents(c.out, {2, 4, 29, 6}); }, {"out.extent(2)"});
  forward_refuses([](call& c) { c.forward.lse = with_extents(c.forward.lse, {2, 4, 29}); }, {"options.lse"});
  forward_refuses([](call& c) { c.out = view<float, 4>(const_cast<float*>(c.v.data()), {2, 4, 30, 6}); },
                  {"out", "no overlap with"});
  backward_refuses([](call& c) { c.dq = with_extents(c.dq, {2, 4, 30, 7}); }, {"dq.extent(3)"});
  backward_refuses([](call& c) { c.dk = with_extents(c.dk, {2, 2, 30, 7}); }, {"dk.extent(3)"});
  backward_refuses([](call& c) { c.dv = with_extents(c.dv, {2, 1, 30, 6}); }, {"dv.extent(1)"});
  backward_refuses([](call& c) { c.dout = with_extents(c.dout, {2, 4, 30, 5}); }, {"dout.extent(3)"});
  backward_refuses([](call& c) { c.saved_lse = {}; }, {"lse"});
  backward_refuses([](call& c) { c.backward.dlse = with_extents(c.backward.dlse, {1, 4, 30}); }, {"options.dlse"});
  backward_refuses([](call& c) { c.dk = view<float, 4>(const_cast<float*>(c.k.data()), {2, 2, 30, 8}); },
                   {"dk", "no overlap"});
  backward_refuses([](call& c) { c.dk = view<float, 4>(c.dq.data(), {2, 2, 30, 8}); }, {"dk", "no overlap"});
}

TEST_CASE("neighborhood attention refuses options that are none") {
  for (const double scale : {infinity, -infinity, std::nan("")})
    both_refuse([&](call& c) { c.forward.scale = c.backward.scale = scale; }, {"options.scale", "finite"});
  both_refuse([](call& c) { c.forward.softcap = c.backward.softcap = -1; }, {"options.softcap", "at least 0"});
  both_refuse(
      [](call& c) {
        c.forward.bias = with_extents(c.forward.bias, {4, 14});
        c.backward.bias = c.forward.bias;
      },
      {"options.bias.extent(1)", "15", "got 14"});
  both_refuse(
      [](call& c) {
        c.forward.bias = with_extents(c.forward.bias, {3, 15});
        c.backward.bias = c.forward.bias;
      },
      {"options.bias.extent(0)", "4 (H, as q)", "got 3"});
  both_refuse([](call& c) { c.axes[0].causal = true; }, {"options.bias", "causal axis"});
  both_refuse([](call& c) { c.axes[0].stride = 2; }, {"options.bias", "strided"});
  both_refuse([](call& c) { c.forward.v_extra = c.backward.v_extra = {}; },
              {"options.k_extra, v_extra", "both or none"});
  both_refuse(
      [](call& c) {
        c.forward.k_extra = with_extents(c.forward.k_extra, {2, 1, 3, 8});
        c.forward.v_extra = with_extents(c.forward.v_extra, {2, 1, 3, 6});
        c.backward.k_extra = c.forward.k_extra;
        c.backward.v_extra = c.forward.v_extra;
      },
      {"options.k_extra.extent(1)", "G, as k"});
  both_refuse(
      [](call& c) {
        c.forward.k_extra = with_extents(c.forward.k_extra, {2, 2, 3, 7});
        c.backward.k_extra = c.forward.k_extra;
      },
      {"options.k_extra.extent(3)", "8", "got 7"});
  float little[4];
  both_refuse([&](call& c) { c.forward.scratch = c.backward.scratch = {little, 16}; },
              {"options.scratch", "at least", "got 16"});
  backward_refuses([](call& c) { c.backward.bias = {}; }, {"options.dbias", "none without a bias"});
  backward_refuses([](call& c) { c.backward.dbias = with_extents(c.backward.dbias, {4, 14}); },
                   {"options.dbias.extent(1)"});
  backward_refuses([](call& c) { c.backward.dv_extra = {}; }, {"options.dk_extra, dv_extra", "as there is k_extra"});
  backward_refuses([](call& c) { c.backward.k_extra = c.backward.v_extra = {}; }, {"options.dk_extra", "none without"});
  backward_refuses([](call& c) { c.backward.dk_extra = with_extents(c.backward.dk_extra, {2, 2, 2, 8}); },
                   {"options.dk_extra.extent(2)"});
}
