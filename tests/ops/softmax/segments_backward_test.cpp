#include "ops/softmax/backward.hpp"
#include "ops/softmax/segmented.hpp"
#include "support/catch.hpp"
#include "support/shuffling_executor.hpp"

#include <heed/mod/masks.hpp>
#include <heed/ops/softmax/segments_backward.hpp>

#include <array>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

using namespace softmax_test;
using heed::softmax_segment_gradients;
using support::shuffling_executor;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

template <class S>
struct backward_segmented : segmented<backward_problem<S>> {
  explicit backward_segmented(const shape& s) : segmented<backward_problem<S>>(s) {
    for (std::size_t n = 0; n < this->k.size(); ++n) {
      const index_t batch = this->k[n].extent(0), M = this->k[n].extent(2);
      dks.push_back(tensor<S, 4>::full({batch, s.G, M, s.D}, support::quiet_nan<S>));
      dvs.push_back(tensor<S, 4>::full({batch, s.G, M, s.E}, support::quiet_nan<S>));
      dlog_weights.push_back(tensor<T, 1>::full({s.H}, support::quiet_nan<T>));
    }
    for (std::size_t n = 0; n < dks.size(); ++n) gradients.push_back({dks[n], dvs[n], dlog_weights[n]});
  }

  using T = heed::accumulator_t<S>;
  std::vector<tensor<S, 4>> dks, dvs;
  std::vector<tensor<T, 1>> dlog_weights;
  std::vector<softmax_segment_gradients<S>> gradients;
};

template <class S, class Mask, class... Mods>
void solve_segments(backward_segmented<S>& p, const std::vector<softmax_segment<S, Mask>>& segments,
                    softmax_backward_options<S> options, const Mods&... mods) {
  softmax_options<S> forward = forward_options(options);
  forward.lse = p.lse;
  heed::softmax_segments_forward(p.q, segments, p.out, forward, mods...);
  heed::softmax_segments_backward(p.q, segments, p.out, p.lse, p.dout, p.dq, p.gradients, options, mods...);
}

/// The worst error, with the segments' positions, masks and weights.
template <class S, class Mask>
double segments_error(const backward_segmented<S>& p, const std::vector<softmax_segment<S, Mask>>& segments,
                      const softmax_backward_options<S>& options) {
  using T = heed::accumulator_t<S>;
  const auto expected = reference::softmax_segments_backward<S>(p.q, definition_of(segments), p.dout, options.dlse,
                                                                arguments_of<S>(options));
  double worst = worst_gradient<S, 4>(p.dq, expected.call.dq, expected.call.dq_noise);
  for (std::size_t n = 0; n < p.k.size(); ++n) {
    const auto& e = expected.segments[n];
    worst = worse(worst, worst_gradient<S, 4>(p.dks[n], e.dk, e.dk_noise));
    worst = worse(worst, worst_gradient<S, 4>(p.dvs[n], e.dv, e.dv_noise));
    worst = worse(worst, worst_gradient<T, 1>(p.dlog_weights[n], e.dlog_weight, e.dlog_weight_noise));
  }
  if (options.sink) worst = worse(worst, worst_gradient<T, 1>(p.dsink, expected.call.dsink, expected.call.dsink_noise));
  return worst;
}

}  // namespace

TEMPLATE_TEST_CASE("gradients of segments are those of one softmax over all keys", "", float, heed::bfloat16) {
  using S = TestType;
  for (const shape& s : {shape{2, 4, 2, 45, 1, 16, 20}, shape{1, 2, 1, 600, 1, 8, 8}, shape{16, 1, 1, 3, 1, 8, 8}}) {
    backward_segmented<S> p(s);
    const auto sink = support::normal_tensor<typename backward_segmented<S>::T, 1>({s.H}, p.random);
    const softmax_backward_options<S> options{.softcap = 3, .sink = sink, .dlse = p.dlse, .dsink = p.dsink};
    const auto segments = p.segments();
    solve_segments(p, segments, options);
    CAPTURE(s.B, s.N, heed::dtype_name<S>);
    CHECK(segments_error(p, segments, options) <= 1);
  }
}

TEST_CASE("gradients of segments with masks, windows, offsets and weights of their own") {
  backward_segmented<float> p({2, 4, 2, 75, 1, 16, 20});
  auto segments = p.segments<heed::causal>();
  tensor<float, 1> weights({4});
  for (index_t h = 0; h < 4; ++h) weights(h) = h == 2 ? float(-infinity) : 0.5f * float(h);
  segments[0].options.q_offset = 1000;
  segments[2].options.log_weight = weights;
  segments[2].options.window_left = 30;
  segments[3].options.q_offset = 3;
  segments[3].options.kv_offset = -4;
  const softmax_backward_options<float> options{.dlse = p.dlse};
  solve_segments(p, segments, options);
  CHECK(segments_error(p, segments, options) <= 1);
}

TEST_CASE("segments with different numbers of kv heads") {
  support::random_engine random(3);
  backward_problem<float> p({2, 4, 2, 30, 50, 8, 8});
  const auto k = support::normal_tensor<float, 4>({2, 4, 70, 8}, random);
  const auto v = support::normal_tensor<float, 4>({2, 4, 70, 8}, random);
  // The same once more, with each kv head of the first segment repeated.
  tensor<float, 4> repeated_k({2, 4, 50, 8}), repeated_v({2, 4, 50, 8});
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 4; ++h)
      for (index_t j = 0; j < 50; ++j)
        for (index_t d = 0; d < 8; ++d) {
          repeated_k(b, h, j, d) = p.k(b, h / 2, j, d);
          repeated_v(b, h, j, d) = p.v(b, h / 2, j, d);
        }
  const auto solve_with = [&](const tensor<float, 4>& first_k, const tensor<float, 4>& first_v, tensor<float, 4>& dk,
                              tensor<float, 4>& dv, tensor<float, 4>& other_dk, tensor<float, 4>& other_dv) {
    const std::tuple segments{softmax_segment<float>{first_k, first_v}, softmax_segment<float, heed::causal>{k, v}};
    heed::softmax_segments_forward(p.q, segments, p.out, {.lse = p.lse});
    const std::array gradients{softmax_segment_gradients<float>{dk, dv},
                               softmax_segment_gradients<float>{other_dk, other_dv}};
    heed::softmax_segments_backward(p.q, segments, p.out, p.lse, p.dout, p.dq, gradients);
  };
  tensor<float, 4> dk({2, 4, 50, 8}), dv({2, 4, 50, 8}), dk1({2, 4, 70, 8}), dv1 = dk1, dk2 = dk1, dv2 = dk1;
  solve_with(repeated_k, repeated_v, dk, dv, dk1, dv1);
  solve_with(p.k, p.v, p.dk, p.dv, dk2, dv2);
  double worst = 0;
  for (index_t b = 0; b < 2; ++b)
    for (index_t g = 0; g < 2; ++g)
      for (index_t j = 0; j < 50; ++j)
        for (index_t d = 0; d < 8; ++d) {
          worst = worse(worst, std::fabs(dk(b, 2 * g, j, d) + dk(b, 2 * g + 1, j, d) - p.dk(b, g, j, d)));
          worst = worse(worst, std::fabs(dv(b, 2 * g, j, d) + dv(b, 2 * g + 1, j, d) - p.dv(b, g, j, d)));
        }
  CHECK(worst <= 5e-6);
  CHECK(same_bits<float, 4>(dk1, dk2));
  CHECK(same_bits<float, 4>(dv1, dv2));
}

TEMPLATE_TEST_CASE("gradients of segments are bit-equal whoever runs the tasks, in the scratch asked for", "", float,
                   heed::bfloat16) {
  using S = TestType;
  for (const shape& s : {shape{2, 4, 2, 300, 1, 16, 20}, shape{16, 1, 1, 3, 1, 8, 8}, shape{0, 2, 1, 3, 1, 8, 8}}) {
    backward_segmented<S> p(s), alone(s);
    solve_segments(alone, alone.segments(), {.executor = heed::serial()});
    shuffling_executor shuffled(shuffling_executor::order::shuffled, 3);
    const heed::executor_ref where = heed::executor(shuffled);
    const auto segments = p.segments();
    const index_t bytes =
        heed::softmax_segments_backward_scratch_bytes<S>(p.q, segments, p.out, p.gradients, {.executor = where});
    std::vector<unsigned char> memory(static_cast<std::size_t>(bytes + 64), 0xff);
    heed::softmax_segments_forward(p.q, segments, p.out, {.lse = p.lse});
    heed::softmax_segments_backward(p.q, segments, p.out, p.lse, p.dout, p.dq, p.gradients,
                                    {.scratch = {memory.data(), bytes}, .executor = where});
    CAPTURE(s.B, bytes);
    CHECK(same_bits<S, 4>(p.dq, alone.dq));
    for (std::size_t n = 0; n < p.k.size(); ++n) {
      CHECK(same_bits<S, 4>(p.dks[n], alone.dks[n]));
      CHECK(same_bits<S, 4>(p.dvs[n], alone.dvs[n]));
      CHECK(same_bits<heed::accumulator_t<S>, 1>(p.dlog_weights[n], alone.dlog_weights[n]));
      CHECK(all_finite(p.dks[n]));
    }
    for (std::size_t i = memory.size() - 64; i < memory.size(); ++i) CHECK(memory[i] == 0xff);
  }
}

TEST_CASE("the gradient by a weight is that by what a score mod adds to the segment") {
  backward_segmented<float> p({2, 4, 2, 45, 1, 16, 20});
  const auto segments = p.segments<heed::causal>();
  const auto added = tensor<double, 1>::full({1}, 0.25);
  tensor<double, 1> expected({1});
  double sum = 0;
  const auto bent = [](auto s, auto) { return 2 * tanh(s); };
  const auto add = heed::with_parameters<1>([](auto s, auto, const auto& a) { return s + a[0]; }, added, expected);
  solve_segments(p, segments, {.dlse = p.dlse}, bent, add);
  for (const auto& of_segment : p.dlog_weights)
    for (const float gradient : of_segment) sum += static_cast<double>(gradient);
  CHECK(std::fabs(sum - expected(0)) <= 1e-4 * (1 + std::fabs(expected(0))));
  CHECK(std::fabs(expected(0)) >= 1e-2);
}

TEST_CASE("gradients of packed segments") {
  const std::vector<std::int32_t> cu_q{0, 20, 20, 75}, cu_k{0, 70, 90, 140};
  backward_segmented<float> p({1, 4, 2, 75, 1, 16, 20});
  std::vector<softmax_segment<float>> one{{p.k[2], p.v[2]}}, two{{p.k[2].all(), p.v[2].all()}, {p.k[1], p.v[1]}};
  const std::vector<std::int32_t> none{0, 0, 0, 0};
  one[0].options.cu_seqlens_k = cu_k;
  two[0].options.cu_seqlens_k = cu_k;
  two[1].options.cu_seqlens_k = none;
  heed::softmax_segments_forward(p.q, one, p.out, {.lse = p.lse, .cu_seqlens_q = cu_q});
  p.dk = tensor<float, 4>({1, 2, 140, 16});
  p.dv = tensor<float, 4>({1, 2, 140, 20});
  const softmax_backward_options<float> options{.cu_seqlens_q = cu_q, .cu_seqlens_k = cu_k};
  heed::softmax_backward(p.q, p.k[2], p.v[2], p.out, p.lse, p.dout, p.dq, p.dk, p.dv, options);
  tensor<float, 4> dq({1, 4, 75, 16});
  const std::array gradients{softmax_segment_gradients<float>{p.dks[2], p.dvs[2]},
                             softmax_segment_gradients<float>{p.dks[1], p.dvs[1]}};
  heed::softmax_segments_backward(p.q, two, p.out, p.lse, p.dout, dq, gradients, {.cu_seqlens_q = cu_q});
  CHECK(same_bits<float, 4>(dq, p.dq));
  CHECK(same_bits<float, 4>(p.dks[2], p.dk));
  CHECK(same_bits<float, 4>(p.dvs[2], p.dv));
}

TEST_CASE("softmax_segments_backward rejects what it cannot work on, before writing") {
  backward_segmented<float> p({2, 4, 2, 30, 1, 16, 20});
  auto segments = p.segments();
  heed::softmax_segments_forward(p.q, segments, p.out, {.lse = p.lse});
  const auto rejects = [&](const auto& gradients, const softmax_backward_options<float>& options, const char* part) {
    CHECK_THROWS_WITH(heed::softmax_segments_backward(p.q, segments, p.out, p.lse, p.dout, p.dq, gradients, options),
                      Catch::Matchers::ContainsSubstring(part));
  };
  rejects(std::array{p.gradients[0]}, {}, "gradients: expected one for each segment, got 1");
  auto wrong = p.gradients;
  wrong[2] = p.gradients[3];
  rejects(wrong, {}, "gradients[2].dk.extent(2): expected 140 (as k), got 33");
  wrong[2] = {heed::view<float, 4>(p.k[2].data(), {2, 2, 140, 16}), p.dvs[2]};
  rejects(wrong, {}, "gradients[2].dk: expected no overlap");
  wrong[2] = {p.dks[2], p.dvs[2], p.dlog_weights[2].all().slice(0, 0, 3)};
  rejects(wrong, {}, "gradients[2].dlog_weight.extent(0): expected 4 (H, as q), got 3");
  wrong[2] = {p.dks[2], p.dvs[2], p.dlog_weights[1]};
  rejects(wrong, {}, "gradients[2].dlog_weight: expected no overlap");
  rejects(p.gradients, {.window_left = 3}, "options.window_left");
  segments[1].options.blend = 0.5;
  rejects(p.gradients, {}, "segments[1].options.blend: expected none");
  CHECK(std::isnan(p.dq(0, 0, 0, 0)));
  CHECK(std::isnan(p.dks[2](0, 0, 0, 0)));
}
