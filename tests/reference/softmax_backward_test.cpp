#include "reference/softmax_backward.hpp"

#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <vector>

#include "reference/differences.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

using heed::index_t;
using heed::tensor;
using reference::append_score;
using reference::score_function;
using reference::softmax_arguments;
using reference::softmax_gradients;
using namespace reference_test;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

struct shape {
  index_t B, H, G, N, M, D, E;
};

/// Tensors, and the call that reads them.
struct subject {
  explicit subject(const shape& s, unsigned seed = 1) : random(seed) {
    q = support::normal_tensor<double, 4>({s.B, s.H, s.N, s.D}, random);
    k = support::normal_tensor<double, 4>({s.B, s.G, s.M, s.D}, random);
    v = support::normal_tensor<double, 4>({s.B, s.G, s.M, s.E}, random);
    dout = support::normal_tensor<double, 4>({s.B, s.H, s.N, s.E}, random);
    dlse = support::normal_tensor<double, 3>({s.B, s.H, s.N}, random);
  }
  subject(const subject&) = delete;

  /// The bias has the extents of the call where bit `axis` of `axes` is set.
  void add_bias(unsigned axes) {
    const auto extent = [axes](int axis, index_t full) { return (axes >> axis & 1u) != 0 ? full : 1; };
    const std::array<index_t, 4> e{extent(0, q.extent(0)), extent(1, q.extent(1)), extent(2, q.extent(2)),
                                   extent(3, k.extent(2))};
    bias = support::normal_tensor<double, 4>({e[0], e[1], e[2], e[3]}, random);
    if (axes != 15) call.bias_extents = e;
    call.bias = [this](int b, int h, index_t i, index_t j) {
      return bias(bias.extent(0) == 1 ? 0 : b, bias.extent(1) == 1 ? 0 : h, bias.extent(2) == 1 ? 0 : i,
                  bias.extent(3) == 1 ? 0 : j);
    };
  }

  /// Parameters in a place that mods find again, whatever is added later.
  int add_parameters(int count) {
    const auto first = static_cast<int>(parameters.size());
    for (int n = 0; n < count; ++n) parameters.push_back(std::normal_distribution<double>(0, 0.5)(random));
    return first;
  }
  double& parameter(int n) { return parameters[static_cast<std::size_t>(n)]; }

  int heads() const { return static_cast<int>(q.extent(1)); }

  softmax_gradients gradients() const { return reference::softmax_backward<double>(q, k, v, dout, dlse, call); }

  double objective() const {
    const auto result = reference::softmax<double>(q, k, v, call);
    return weighted_sum(dout, result.out) + weighted_sum(dlse, result.lse);
  }

  support::random_engine random;
  tensor<double, 4> q, k, v, dout, bias;
  tensor<double, 3> dlse;
  tensor<double, 1> sink;
  std::vector<double> parameters;
  softmax_arguments call;
};

using feature = void (*)(subject&);

void nothing_more(subject&) {}
void scale(subject& s) { s.call.scale = 0.7; }
void zero_scale(subject& s) { s.call.scale = 0; }
void negative_scale(subject& s) { s.call.scale = -0.4; }
void softcap(subject& s) { s.call.softcap = 0.8; }
void bias(subject& s) { s.add_bias(15); }
void bias_by_key(subject& s) { s.add_bias(0b1000); }

void excluding_bias(subject& s) {
  s.add_bias(15);
  for (index_t i = 0; i < s.bias.size(); i += 3) s.bias.data()[i] = -infinity;
}

void causal(subject& s) {
  s.call.visible = [](int, int, int p, int t) { return t <= p; };
}

/// Another pattern for every head and batch entry; some rows see nothing.
void scattered(subject& s) {
  s.call.visible = [](int b, int h, int p, int t) {
    return (p + 2 * h + b) % 4 != 0 && (3 * b + 5 * h + 2 * p + 7 * t) % 3 != 0;
  };
}

void window(subject& s) {
  s.call.window_left = 2;
  s.call.window_right = 1;
}

void offsets(subject& s) {
  s.call.q_offset = 3;
  s.call.kv_offset = 2;
}

/// z = s - slope[h] (p - t)
void alibi(subject& s) {
  const int first = s.add_parameters(s.heads());
  score_function f;
  f.value = [&s, first](double x, int, int h, int p, int t) { return x - s.parameter(first + h) * (p - t); };
  f.slope = [](double, int, int, int, int) { return 1; };
  f.partial = [](int n, double, int, int h, int p, int t) { return n == h ? t - p : 0; };
  f.parameters = s.heads();
  append_score(s.call, f);
}

/// z = factor[h] s
void temperature(subject& s) {
  const int first = s.add_parameters(s.heads());
  score_function f;
  f.value = [&s, first](double x, int, int h, int, int) { return s.parameter(first + h) * x; };
  f.slope = [&s, first](double, int, int h, int, int) { return s.parameter(first + h); };
  f.partial = [](int n, double x, int, int h, int, int) { return n == h ? x : 0; };
  f.parameters = s.heads();
  append_score(s.call, f);
}

/// z = a w s^2 + c p tanh(s) + b t / 10, with w by batch entry and head: positions matter to derivatives.
void curved(subject& s) {
  const int a = s.add_parameters(2), c = a + 1;
  const auto weight = [](int b, int h) { return 1 + 0.2 * b + 0.1 * h; };
  score_function f;
  f.value = [=, &s](double x, int b, int h, int p, int t) {
    return s.parameter(a) * weight(b, h) * x * x + s.parameter(c) * p * std::tanh(x) + 0.1 * b * t;
  };
  f.slope = [=, &s](double x, int b, int h, int p, int) {
    return 2 * s.parameter(a) * weight(b, h) * x + s.parameter(c) * p * (1 - std::tanh(x) * std::tanh(x));
  };
  f.partial = [=](int n, double x, int b, int h, int p, int) {
    return n == 0 ? weight(b, h) * x * x : p * std::tanh(x);
  };
  f.parameters = 2;
  append_score(s.call, f);
}

/// A mod without parameters that excludes some pairs; its derivative there is no number.
void excluding_score(subject& s) {
  const auto excluded = [](int h, int p, int t) { return (p + t + h) % 3 == 0; };
  score_function f;
  f.value = [=](double x, int, int h, int p, int t) { return excluded(h, p, t) ? -infinity : 0.5 * x; };
  f.slope = [=](double, int, int h, int p, int t) { return excluded(h, p, t) ? support::quiet_nan<double> : 0.5; };
  append_score(s.call, f);
}

void sink(subject& s) {
  s.sink = support::normal_tensor<double, 1>({s.q.extent(1)}, s.random);
  s.call.sink = [&s](int h) { return s.sink(h); };
}

void one_sink_less(subject& s) {
  sink(s);
  s.sink(0) = -infinity;
}

void check(subject& s) {
  const softmax_gradients gradients = s.gradients();
  const auto objective = [&s] { return s.objective(); };
  comparison c;
  c.add(gradients.dq, differences(s.q, objective));
  c.add(gradients.dk, differences(s.k, objective));
  c.add(gradients.dv, differences(s.v, objective));
  c.add(gradients.dbias, differences(s.bias, objective));
  c.add(gradients.dsink, differences(s.sink, objective));
  c.add(gradients.dscore, differences(s.parameters, objective));
  CAPTURE(c.size);
  CHECK(c.difference <= tolerance * c.size);
}

constexpr shape shapes[] = {{1, 1, 1, 1, 1, 1, 1}, {2, 4, 2, 5, 6, 3, 4}, {1, 3, 1, 6, 4, 2, 5},
                            {1, 2, 2, 3, 7, 4, 1}, {1, 2, 1, 4, 0, 3, 2}, {2, 2, 1, 0, 4, 3, 2}};

void check(const std::vector<feature>& features) {
  for (const shape& size : shapes) {
    CAPTURE(size.B, size.H, size.G, size.N, size.M, size.D, size.E);
    subject s(size);
    for (const feature add : features) add(s);
    check(s);
  }
}

}  // namespace

TEST_CASE("gradients of softmax are its differences") {
  struct {
    const char* name;
    feature add;
  } const features[] = {{"plain", nothing_more},
                        {"scale", scale},
                        {"zero scale", zero_scale},
                        {"negative scale", negative_scale},
                        {"softcap", softcap},
                        {"bias of -inf", excluding_bias},
                        {"causal", causal},
                        {"scattered mask", scattered},
                        {"window", window},
                        {"offsets", offsets},
                        {"alibi", alibi},
                        {"temperature", temperature},
                        {"curved", curved},
                        {"score of -inf", excluding_score},
                        {"sink", sink},
                        {"one sink less", one_sink_less}};
  for (const auto& [name, add] : features) {
    INFO(name);
    check({add});
  }
}

TEST_CASE("the gradient of a bias is summed over the axes it has not") {
  for (const shape& size : shapes)
    for (unsigned axes = 0; axes < 16; ++axes) {
      CAPTURE(size.B, size.H, size.G, size.N, size.M, axes);
      subject s(size);
      s.add_bias(axes);
      check(s);
    }
}

TEST_CASE("features combine") {
  const std::vector<feature> sets[] = {{causal, alibi, sink},
                                       {scale, softcap, bias, curved, window, sink},
                                       {softcap, excluding_bias, temperature, alibi, scattered},
                                       {curved, temperature, offsets, window},
                                       {alibi, curved, alibi, excluding_score, bias_by_key, one_sink_less},
                                       {curved, excluding_score, causal, softcap, negative_scale, offsets}};
  for (std::size_t n = 0; n < std::size(sets); ++n) {
    CAPTURE(n);
    check(sets[n]);
  }
}

TEST_CASE("no dlse is a dlse of zeros") {
  subject s({2, 4, 2, 5, 6, 3, 4});
  softcap(s);
  sink(s);
  s.dlse.fill(0);
  const softmax_gradients given = s.gradients();
  const auto none = reference::softmax_backward<double>(s.q, s.k, s.v, s.dout, {}, s.call);
  for (index_t i = 0; i < given.dk.size(); ++i) CHECK(none.dk.data()[i] == given.dk.data()[i]);
  check(s);
}

TEST_CASE("gradients of packed batches stay in their sequence") {
  // Empty sequences, one without keys, one without queries, and rows that nobody owns.
  subject s({1, 4, 2, 12, 15, 3, 2});
  s.call.cu_q = {0, 4, 4, 6, 6, 11};
  s.call.cu_k = {0, 3, 3, 3, 7, 13};
  SECTION("plain") {}
  SECTION("causal, with alibi and a sink") {
    causal(s);
    alibi(s);
    sink(s);
  }
  SECTION("mods that know the sequence") {
    scattered(s);
    curved(s);
    window(s);
  }
  check(s);
}

TEST_CASE("a factor multiplies dout alone") {
  subject s({2, 4, 2, 5, 6, 3, 4}), scaled({2, 4, 2, 5, 6, 3, 4});
  for (double& x : scaled.dout) x *= -0.5;
  const auto a = reference::softmax_backward<double>(s.q, s.k, s.v, s.dout, s.dlse, {}, -0.5);
  const softmax_gradients b = scaled.gradients();
  for (index_t i = 0; i < a.dk.size(); ++i) CHECK(a.dk.data()[i] == b.dk.data()[i]);
  for (index_t i = 0; i < a.dv.size(); ++i) CHECK(a.dv.data()[i] == b.dv.data()[i]);
}

TEST_CASE("what nothing sees has no gradient and is not read") {
  // Keys 2 and 5 are hidden from all queries, query 1 of head 3 sees nothing, query 0 of head 1 the sink alone.
  const auto hidden = [](index_t j) { return j == 2 || j == 5; };
  const feature ways[] = {[](subject& s) {
                            s.call.visible = [](int, int h, int p, int t) {
                              return t != 2 && t != 5 && !(h == 3 && p == 2) && !(h == 1 && p == 1);
                            };
                          },
                          [](subject& s) {
                            s.add_bias(15);
                            for (index_t b = 0; b < 2; ++b)
                              for (index_t h = 0; h < 4; ++h)
                                for (index_t i = 0; i < 5; ++i)
                                  for (index_t j = 0; j < 6; ++j)
                                    if (j == 2 || j == 5 || (h == 3 && i == 1) || (h == 1 && i == 0))
                                      s.bias(b, h, i, j) = -infinity;
                          },
                          [](subject& s) {
                            score_function f;
                            f.value = [](double x, int, int h, int p, int t) {
                              return t == 2 || t == 5 || (h == 3 && p == 2) || (h == 1 && p == 1) ? -infinity : x;
                            };
                            f.slope = [](double, int, int, int, int) { return 1; };
                            append_score(s.call, f);
                          }};
  for (std::size_t way = 0; way < std::size(ways); ++way) {
    subject clean({2, 4, 2, 5, 6, 3, 4}), poisoned({2, 4, 2, 5, 6, 3, 4});
    for (subject* s : {&clean, &poisoned}) {
      ways[way](*s);
      sink(*s);
      for (index_t h = 0; h < 4; ++h) s->sink(h) = h == 1 ? 0.5 : -infinity;
    }
    for (index_t b = 0; b < 2; ++b) {
      for (index_t g = 0; g < 2; ++g)
        for (index_t j = 0; j < 6; ++j)
          if (hidden(j)) {
            for (index_t d = 0; d < 3; ++d) poisoned.k(b, g, j, d) = support::quiet_nan<double>;
            for (index_t e = 0; e < 4; ++e) poisoned.v(b, g, j, e) = infinity;
          }
      for (index_t d = 0; d < 3; ++d) poisoned.q(b, 3, 1, d) = poisoned.q(b, 1, 0, d) = support::quiet_nan<double>;
      for (index_t e = 0; e < 4; ++e) poisoned.dout(b, 3, 1, e) = support::quiet_nan<double>;
      poisoned.dlse(b, 3, 1) = support::quiet_nan<double>;
    }
    const softmax_gradients expected = clean.gradients(), got = poisoned.gradients();
    const auto same = [](const auto& a, const auto& b) { return largest_difference(a, b) == 0; };
    CAPTURE(way);
    CHECK(same(got.dq, expected.dq));
    CHECK(same(got.dk, expected.dk));
    CHECK(same(got.dv, expected.dv));
    CHECK(same(got.dbias, expected.dbias));
    CHECK(same(got.dsink, expected.dsink));
    CHECK(same(got.dq_noise, expected.dq_noise));
    CHECK(same(got.dk_noise, expected.dk_noise));
    for (index_t b = 0; b < 2; ++b) {
      for (index_t d = 0; d < 3; ++d) {
        CHECK(got.dq(b, 3, 1, d) == 0);
        CHECK(got.dq(b, 1, 0, d) == 0);
        CHECK(got.dk(b, 1, 2, d) == 0);
      }
      CHECK(got.dv(b, 0, 5, 3) == 0);
    }
    // The query that has a sink alone: lse is the sink.
    CHECK(clean.gradients().dsink(1) != 0);
  }
}

TEST_CASE("score mods without derivatives are refused") {
  subject s({1, 1, 1, 2, 3, 2, 2});
  s.call.score = [](double x, int, int, int, int) { return 2 * x; };
  CHECK_THROWS_AS(s.gradients(), std::logic_error);
  s.call.score_slope = [](double, int, int, int, int) { return 2.0; };
  CHECK_NOTHROW(s.gradients());
  s.call.score_parameters = 1;
  CHECK_THROWS_AS(s.gradients(), std::logic_error);
}
