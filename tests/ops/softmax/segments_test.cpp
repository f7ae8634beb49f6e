#include "ops/softmax/segmented.hpp"
#include "support/catch.hpp"

#include <heed/mod/masks.hpp>

#include <array>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

using namespace softmax_test;
using heed::softmax_segments_forward;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

template <class S>
using forward_segmented = segmented<problem<S>>;

template <class S, class Mask>
reference::softmax_result expected_of(const problem<S>& p, const std::vector<softmax_segment<S, Mask>>& segments,
                                      const reference::softmax_arguments& call = {}) {
  return reference::softmax_segments<S>(p.q, definition_of(segments), call);
}

constexpr shape usual{2, 4, 2, 75, 1, 16, 20};

}  // namespace

TEMPLATE_TEST_CASE("segments are one softmax over the keys of all", "", float, double, heed::bfloat16) {
  for (const index_t N : {1, 45, 130}) {
    forward_segmented<TestType> p({2, 4, 2, N, 1, 16, 20});
    const auto segments = p.segments();
    softmax_segments_forward(p.q, segments, p.out, {.lse = p.lse});
    CAPTURE(N);
    CHECK(worst_error<TestType>(p, expected_of(p, segments)) <= 1);
  }
}

TEST_CASE("log weights add to the scores of their segment, by head; -inf removes it") {
  forward_segmented<float> p(usual);
  auto segments = p.segments();
  const std::vector<std::array<float, 4>> weights{
      {0.5f, -3, -infinity, 10}, {0, 0, 0, 0}, {-1, 2, -infinity, -infinity}, {-50, 1, -infinity, 60}};
  for (std::size_t s = 0; s < segments.size(); ++s)
    segments[s].options.log_weight = view<const float, 1>(weights[s].data(), {4});
  softmax_segments_forward(p.q, segments, p.out, {.lse = p.lse});
  CHECK(worst_error<float>(p, expected_of(p, segments)) <= 1);
  // Head 2 has lost all of its segments.
  CHECK(p.lse(1, 2, 44) == -infinity);
  CHECK(p.out(1, 2, 44, 19) == 0);
}

TEST_CASE("a removed segment is not read") {
  forward_segmented<float> p(usual), clean(usual);
  const std::vector<float> gone(4, -infinity);
  p.k[2].fill(support::quiet_nan<float>);
  p.v[2].fill(support::quiet_nan<float>);
  const auto solve = [&](forward_segmented<float>& problem) {
    auto segments = problem.segments();
    segments[2].options.log_weight = view<const float, 1>(gone.data(), {4});
    softmax_segments_forward(problem.q, segments, problem.out, {.lse = problem.lse});
  };
  solve(p);
  solve(clean);
  CHECK(same_result<float>(p, clean));
}

TEST_CASE("masks, windows and offsets belong to their segment") {
  forward_segmented<float> p(usual);
  std::vector<softmax_segment<float, heed::dilated>> segments;
  for (std::size_t s = 0; s < p.k.size(); ++s)
    segments.push_back({p.k[s], p.v[s], {}, heed::dilated{60 - static_cast<int>(s), 1 + static_cast<int>(s) % 3}});
  segments[2].options.window_right = 0;
  segments[2].options.window_left = 70;
  segments[3].options.q_offset = 7;
  segments[3].options.kv_offset = -4;
  softmax_segments_forward(p.q, segments, p.out, {.lse = p.lse});
  CHECK(worst_error<float>(p, expected_of(p, segments)) <= 1);
}

TEST_CASE("segments of different masks come in a tuple") {
  forward_segmented<float> p(usual);
  const heed::softmax_segment<float> prefix{p.k[0], p.v[0]};
  const heed::softmax_segment<float, heed::causal> own{p.k[2], p.v[2], {}, heed::causal{}};
  softmax_segments_forward(p.q, std::tuple(prefix, own), p.out, {.lse = p.lse});
  // The same with the window of the options instead of the mask.
  std::vector<softmax_segment<float>> segments{prefix, {p.k[2], p.v[2], {.window_right = 0}}};
  CHECK(worst_error<float>(p, expected_of(p, segments)) <= 1);
}

TEST_CASE("a segment of batch extent 1 serves every batch entry") {
  forward_segmented<float> p(usual);
  const auto k = support::normal_tensor<float, 4>({1, 2, 9, 16}, p.random),
             v = support::normal_tensor<float, 4>({1, 2, 9, 20}, p.random);
  const std::vector<softmax_segment<float>> segments{{p.k[2], p.v[2]}, {k, v}};
  softmax_segments_forward(p.q, segments, p.out, {.lse = p.lse});
  CHECK(worst_error<float>(p, expected_of(p, segments)) <= 1);
}

TEST_CASE("scale, softcap, sink and score mods hold in every segment, the sink once") {
  forward_segmented<float> p(usual);
  auto segments = p.segments();
  segments[3].options.q_offset = 100;
  const auto sink = support::normal_tensor<float, 1>({4}, p.random, 2);
  const softmax_options<float> options{.scale = 0.4, .softcap = 1.5, .sink = sink, .lse = p.lse};
  const auto slope = [](auto s, auto at) { return s - 0.03f * (at.q - at.kv); };
  softmax_segments_forward(p.q, segments, p.out, options, slope);
  reference::softmax_arguments call = arguments_of<float>(options);
  add_mod(call, slope);
  CHECK(worst_error<float>(p, expected_of(p, segments, call)) <= 1);
}

TEST_CASE("one segment equals softmax_forward, bit for bit") {
  problem<float> forward({2, 4, 2, 45, 150, 16, 20}), segment({2, 4, 2, 45, 150, 16, 20});
  heed::softmax_forward(forward.q, forward.k, forward.v, forward.out, {.lse = forward.lse, .window_right = 0});
  const std::array segments{softmax_segment<float>{segment.k, segment.v, {.window_right = 0}}};
  softmax_segments_forward(segment.q, segments, segment.out, {.lse = segment.lse});
  CHECK(same_result(forward, segment));
}

TEST_CASE("no segments, or empty ones: zeros and -inf, or the sink") {
  forward_segmented<float> p(usual);
  const auto sink = support::normal_tensor<float, 1>({4}, p.random);
  for (const bool with_sink : {false, true})
    for (const std::size_t count : {0u, 1u, 2u}) {
      const std::vector<softmax_segment<float>> segments(count, {p.k[1], p.v[1]});
      softmax_options<float> options{.lse = p.lse};
      if (with_sink) options.sink = sink;
      softmax_segments_forward(p.q, segments, p.out, options);
      CHECK(std::all_of(p.out.begin(), p.out.end(), [](float x) { return x == 0; }));
      CHECK(relative_to(p.lse(1, 3, 44), with_sink ? sink(3) : -infinity, 1e-6) <= 1);
    }
}

TEMPLATE_TEST_CASE("a blend adds the softmax of each segment with its factor", "", float, heed::bfloat16) {
  forward_segmented<TestType> p(usual);
  auto segments = p.segments();
  const double factors[] = {0.75, 3, -0.5, 0};
  for (std::size_t s = 0; s < segments.size(); ++s) segments[s].options.blend = factors[s];
  softmax_segments_forward(p.q, segments, p.out);
  CHECK(worst_error<TestType>(p.out, {}, expected_of(p, segments)) <= 1);
}

TEST_CASE("packed segments: every sequence has its part of each") {
  const std::vector<std::int32_t> cu_q{0, 20, 20, 70}, cu_first{0, 3, 5, 5}, cu_second{0, 30, 90, 140};
  problem<float> p({1, 4, 2, 75, 1, 16, 20}), one({1, 4, 2, 75, 1, 16, 20});
  const auto k1 = support::normal_tensor<float, 4>({1, 2, 6, 16}, p.random),
             v1 = support::normal_tensor<float, 4>({1, 2, 6, 20}, p.random);
  const auto k2 = support::normal_tensor<float, 4>({1, 2, 141, 16}, p.random),
             v2 = support::normal_tensor<float, 4>({1, 2, 141, 20}, p.random);
  const std::array segments{softmax_segment<float>{k1, v1, {.cu_seqlens_k = cu_first}},
                            softmax_segment<float>{k2, v2, {.window_right = 0, .cu_seqlens_k = cu_second}}};
  softmax_segments_forward(p.q, segments, p.out, {.lse = p.lse, .cu_seqlens_q = cu_q});
  for (std::size_t s = 0; s < 3; ++s) {
    const auto rows = [s](const auto& t, const std::vector<std::int32_t>& cu) {
      return t.all().slice(2, cu[s], cu[s + 1]);
    };
    const std::array mine{softmax_segment<float>{rows(k1, cu_first), rows(v1, cu_first)},
                          softmax_segment<float>{rows(k2, cu_second), rows(v2, cu_second), {.window_right = 0}}};
    softmax_segments_forward(rows(p.q, cu_q), mine, one.out.all().slice(2, cu_q[s], cu_q[s + 1]),
                             {.lse = one.lse.all().slice(2, cu_q[s], cu_q[s + 1])});
  }
  CHECK(same_result(p, one));
}

TEST_CASE("softmax_segments_forward refuses what it cannot mean") {
  using Catch::Matchers::ContainsSubstring;
  forward_segmented<float> p(usual);
  static const std::vector<float> weights{0, infinity, 0, 0};
  const auto message = [&](auto change, softmax_options<float> options = {}) -> std::string {
    auto segments = p.segments();
    change(segments);
    try {
      softmax_segments_forward(p.q, segments, p.out, options);
    } catch (const heed::invalid_argument& error) {
      CHECK(std::all_of(p.out.begin(), p.out.end(), [](float x) { return std::isnan(x); }));
      return error.what();
    }
    return "nothing was thrown";
  };
  const auto as_is = [](auto&) {};
  using segments_of = std::vector<softmax_segment<float>>;
  CHECK_THAT(message([&](segments_of& s) { s[2].v = p.v[3]; }), ContainsSubstring("segments[2].v.extent(2)"));
  CHECK_THAT(message([&](segments_of& s) { s[3].k = s[3].k.slice(3, 0, 7); }),
             ContainsSubstring("segments[3].k.extent(3)"));
  CHECK_THAT(message([&](segments_of& s) { s[0].options.window_left = -2; }), ContainsSubstring("window_left"));
  CHECK_THAT(message([&](segments_of& s) { s[0].options.log_weight = view<const float, 1>(weights.data(), {4}); }),
             ContainsSubstring("segments[0].options.log_weight"));
  CHECK_THAT(message([&](segments_of& s) { s[1].options.log_weight = view<const float, 1>(weights.data(), {3}); }),
             ContainsSubstring("segments[1].options.log_weight"));
  CHECK_THAT(message([&](segments_of& s) { s[1].options.blend = 0.5; }),
             ContainsSubstring("a blend in every segment or in none"));
  CHECK_THAT(message([&](segments_of& s) { s[1].options.blend = double(infinity); }), ContainsSubstring("finite"));
  const auto blend_all = [](segments_of& s) {
    for (auto& segment : s) segment.options.blend = 1;
  };
  const std::vector<float> sink(4, 0.f);
  CHECK_THAT(message(blend_all, {.lse = p.lse}), ContainsSubstring("options.lse"));
  CHECK_THAT(message(blend_all, {.sink = view<const float, 1>(sink.data(), {4})}), ContainsSubstring("options.sink"));
  CHECK_THAT(message(as_is, {.window_right = 0}), ContainsSubstring("window"));
  CHECK_THAT(message(as_is, {.q_offset = 3}), ContainsSubstring("q_offset"));
  CHECK_THAT(message(as_is, {.bias = p.q}), ContainsSubstring("options.bias"));
  CHECK_THAT(message([&](segments_of& s) { s[2].k = view<const float, 4>(p.out.data(), {2, 2, 140, 16}); }),
             ContainsSubstring("overlap"));
}
