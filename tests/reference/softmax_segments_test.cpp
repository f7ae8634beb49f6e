#include "reference/softmax_segments.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "reference/differences.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

using heed::index_t;
using heed::tensor;
using reference::softmax_arguments;
using reference::softmax_segment;
using reference::softmax_segments_gradients;
using namespace reference_test;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// Queries of 4 heads over 2 groups, and segments of the given numbers of keys; those of `shared` serve all batch
/// entries.
struct subject {
  subject(index_t B, index_t N, const std::vector<index_t>& lengths, std::size_t shared = 99) : random(7) {
    q = support::normal_tensor<double, 4>({B, 4, N, 3}, random);
    dout = support::normal_tensor<double, 4>({B, 4, N, 2}, random);
    dlse = support::normal_tensor<double, 3>({B, 4, N}, random);
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      const index_t entries = s == shared ? 1 : B;
      k.push_back(support::normal_tensor<double, 4>({entries, 2, lengths[s], 3}, random));
      v.push_back(support::normal_tensor<double, 4>({entries, 2, lengths[s], 2}, random));
    }
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      segments.emplace_back();
      segments[s].k = k[s];
      segments[s].v = v[s];
    }
  }
  subject(const subject&) = delete;

  void add_log_weights() {
    for (auto& segment : segments) {
      const std::size_t s = log_weights.size();
      log_weights.push_back(support::normal_tensor<double, 1>({4}, random));
      segment.log_weight = [this, s](int h) { return log_weights[s](h); };
    }
  }

  /// Segment s counts by[s] times.
  void blend(const std::vector<double>& by) {
    for (std::size_t s = 0; s < segments.size(); ++s) {
      factors.push_back({by[s]});
      segments[s].blend = by[s];
    }
    dlse = {};
  }

  double objective() const {
    const auto result = reference::softmax_segments<double>(q, segments, call);
    return weighted_sum(dout, result.out) + weighted_sum(dlse, result.lse);
  }

  softmax_segments_gradients gradients() const {
    return reference::softmax_segments_backward<double>(q, segments, dout, dlse, call);
  }

  support::random_engine random;
  tensor<double, 4> q, dout;
  tensor<double, 3> dlse;
  std::vector<tensor<double, 4>> k, v;
  std::vector<tensor<double, 1>> log_weights;
  std::vector<softmax_segment<double>> segments;
  std::vector<double> parameters, sink;
  std::vector<std::vector<double>> factors;
  softmax_arguments call;
};

void check(subject& s) {
  const softmax_segments_gradients gradients = s.gradients();
  const auto objective = [&s] { return s.objective(); };
  comparison c;
  c.add(gradients.call.dq, differences(s.q, objective));
  c.add(gradients.call.dsink, differences(s.sink, objective));
  c.add(gradients.call.dscore, differences(s.parameters, objective));
  REQUIRE(gradients.segments.size() == s.segments.size());
  for (std::size_t n = 0; n < s.segments.size(); ++n) {
    c.add(gradients.segments[n].dk, differences(s.k[n], objective));
    c.add(gradients.segments[n].dv, differences(s.v[n], objective));
    if (!s.log_weights.empty()) c.add(gradients.segments[n].dlog_weight, differences(s.log_weights[n], objective));
    if (!s.segments[n].blend) continue;
    c.add(std::vector<double>{gradients.segments[n].dblend}, differences(s.factors[n], [&] {
            s.segments[n].blend = s.factors[n][0];
            return s.objective();
          }));
    s.segments[n].blend = s.factors[n][0];
  }
  CAPTURE(c.size);
  CHECK(c.difference <= tolerance * c.size);
}

/// Scale, softcap and a slope for each head, z = s - slope[h] (p - t) (1 + b) + t s^2 / 20.
void add_scores(subject& s) {
  s.call.scale = 0.8;
  s.call.softcap = 1.5;
  s.parameters = {0.1, -0.2, 0.3, 0.05};
  reference::score_function f;
  f.value = [&s](double x, int b, int h, int p, int t) {
    return x - s.parameters[static_cast<std::size_t>(h)] * (p - t) * (1 + b) + 0.05 * t * x * x;
  };
  f.slope = [](double x, int, int, int, int t) { return 1 + 0.1 * t * x; };
  f.partial = [](int n, double, int b, int h, int p, int t) { return n == h ? (t - p) * (1 + b) : 0; };
  f.parameters = 4;
  append_score(s.call, f);
}

void add_sink(subject& s) {
  s.sink = {0.3, -infinity, 1.2, -0.7};
  s.call.sink = [&s](int h) { return s.sink[static_cast<std::size_t>(h)]; };
}

}  // namespace

TEST_CASE("segments at one origin are one softmax over their keys") {
  subject s(2, 5, {3, 0, 4});
  s.segments[0].q_offset = s.segments[1].q_offset = s.segments[2].q_offset = 2;
  s.segments[2].kv_offset = 3;
  s.call.sink = [](int) { return 0.25; };
  tensor<double, 4> k({2, 2, 7, 3}), v({2, 2, 7, 2});
  for (index_t b = 0; b < 2; ++b)
    for (index_t g = 0; g < 2; ++g)
      for (index_t j = 0; j < 7; ++j) {
        const std::size_t from = j < 3 ? 0 : 2;
        for (index_t d = 0; d < 3; ++d) k(b, g, j, d) = s.k[from](b, g, j < 3 ? j : j - 3, d);
        for (index_t e = 0; e < 2; ++e) v(b, g, j, e) = s.v[from](b, g, j < 3 ? j : j - 3, e);
      }
  add_scores(s);
  softmax_arguments whole = s.call;
  whole.q_offset = 2;
  SECTION("all of them") {}
  SECTION("under a mask") {
    whole.visible = [](int b, int h, int p, int t) { return (b + h + p + 2 * t) % 3 != 0; };
    for (auto& segment : s.segments) segment.visible = whole.visible;
  }
  SECTION("in a window") {
    whole.window_left = 2;
    whole.window_right = 1;
    for (auto& segment : s.segments) {
      segment.window_left = 2;
      segment.window_right = 1;
    }
  }
  const auto expected = reference::softmax<double>(s.q, k, v, whole);
  const auto got = reference::softmax_segments<double>(s.q, s.segments, s.call);
  CHECK(largest_difference(got.out, expected.out) <= 1e-15);
  CHECK(largest_difference(got.lse, expected.lse) <= 1e-15);
  const auto gradients = reference::softmax_backward<double>(s.q, k, v, s.dout, s.dlse, whole);
  CHECK(largest_difference(s.gradients().call.dq, gradients.dq) <= 1e-15);
}

TEST_CASE("gradients of segments are their differences") {
  subject s(2, 5, {3, 0, 4}, 2);
  SECTION("plain") {}
  SECTION("log weights") { s.add_log_weights(); }
  SECTION("a head without a segment, a head without any") {
    s.add_log_weights();
    s.log_weights[2](1) = -infinity;
    for (auto& weights : s.log_weights) weights(3) = -infinity;
  }
  SECTION("scores, sink, weights") {
    s.add_log_weights();
    add_scores(s);
    add_sink(s);
  }
  SECTION("masks, windows and offsets") {
    s.add_log_weights();
    add_scores(s);
    s.segments[0].visible = [](int b, int h, int p, int t) { return (b + h + p + 2 * t) % 3 != 0; };
    s.segments[2].window_left = 1;
    s.segments[2].window_right = 2;
    s.segments[2].q_offset = 1;
    s.segments[2].kv_offset = 2;
  }
  check(s);
}

TEST_CASE("gradients of a blend are its differences") {
  subject s(2, 5, {3, 0, 4}, 0);
  s.blend({0.75, 2, -1.5});
  SECTION("plain") {}
  SECTION("scores, masks and weights") {
    add_scores(s);
    s.add_log_weights();
    s.log_weights[0](2) = -infinity;
    s.segments[2].visible = [](int, int h, int p, int t) { return (h + p + 2 * t) % 4 != 0 && p != 0; };
  }
  check(s);
}

TEST_CASE("gradients of packed segments stay in their sequence") {
  subject s(1, 9, {6, 8});
  s.call.cu_q = {0, 3, 3, 8};
  s.segments[0].cu_k = {0, 1, 1, 5};
  s.segments[1].cu_k = {0, 4, 6, 6};
  s.segments[1].window_right = 0;
  SECTION("one softmax") {
    s.add_log_weights();
    add_sink(s);
  }
  SECTION("blend") { s.blend({0.5, -2}); }
  add_scores(s);
  check(s);
}

TEST_CASE("a removed segment has no gradient and is not read") {
  subject clean(2, 5, {3, 0, 4}), poisoned(2, 5, {3, 0, 4});
  for (subject* s : {&clean, &poisoned}) {
    s->add_log_weights();
    s->log_weights[2].fill(-infinity);
  }
  poisoned.k[2].fill(support::quiet_nan<double>);
  poisoned.v[2].fill(support::quiet_nan<double>);
  const auto expected = clean.gradients(), got = poisoned.gradients();
  CHECK(largest_difference(got.call.dq, expected.call.dq) == 0);
  CHECK(largest_difference(got.segments[0].dk, expected.segments[0].dk) == 0);
  for (const double x : got.segments[2].dk) CHECK(x == 0);
  for (const double x : got.segments[2].dv) CHECK(x == 0);
  for (const double x : got.segments[2].dlog_weight) CHECK(x == 0);
}
