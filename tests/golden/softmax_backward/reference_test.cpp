// The reference against the golden cases.
#include "support/catch.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "golden/softmax_backward/cases.hpp"
#include "reference/softmax_backward.hpp"

using golden::softmax_case;
using heed::index_t;
using heed::tensor;

namespace {

/// A golden case with the tensors that its call reads.
struct problem {
  explicit problem(const softmax_case& c)
      : q(c.get<double, 4>("q")), k(c.get<double, 4>("k")), v(c.get<double, 4>("v")), dout(c.get<double, 4>("dout")) {
    if (c.has("dlse")) dlse = c.get<double, 3>("dlse");
    call.scale = c.number("scale", 1 / std::sqrt(static_cast<double>(q.extent(3))));
    call.softcap = c.number("softcap", 0);
    call.q_offset = static_cast<index_t>(c.number("q_offset", static_cast<double>(k.extent(2) - q.extent(2))));
    call.kv_offset = static_cast<index_t>(c.number("kv_offset", 0));
    call.window_left = static_cast<index_t>(c.number("window_left", -1));
    call.window_right = static_cast<index_t>(c.number("window_right", -1));
    if (c.number("causal", 0) == 1) call.visible = [](int, int, int p, int t) { return t <= p; };
    if (c.has("bias")) {
      bias = c.get<double, 4>("bias");
      call.bias_extents = std::array<index_t, 4>{bias.extent(0), bias.extent(1), bias.extent(2), bias.extent(3)};
      call.bias = [this](int b, int h, index_t i, index_t j) {
        return bias(std::min<index_t>(b, bias.extent(0) - 1), std::min<index_t>(h, bias.extent(1) - 1),
                    std::min(i, bias.extent(2) - 1), std::min(j, bias.extent(3) - 1));
      };
    }
    if (c.has("sink")) {
      sink = c.get<double, 1>("sink");
      call.sink = [this](int h) { return sink(h); };
    }
    if (c.has("slopes")) {
      slopes = c.get<double, 1>("slopes");
      reference::score_function alibi;
      alibi.value = [this](double x, int, int h, int p, int t) { return x - slopes(h) * (p - t); };
      alibi.slope = [](double, int, int, int, int) { return 1; };
      alibi.partial = [](int n, double, int, int h, int p, int t) { return n == h ? t - p : 0; };
      alibi.parameters = static_cast<int>(slopes.size());
      append_score(call, alibi);
    }
  }
  problem(const problem&) = delete;

  tensor<double, 4> q, k, v, dout, bias;
  tensor<double, 3> dlse;
  tensor<double, 1> sink, slopes;
  reference::softmax_arguments call;
};

/// error / max(1, |expected|); NaN, or infinity for other extents, if they cannot be compared.
template <class Values, int Rank>
double worst(const Values& values, const tensor<double, Rank>& expected) {
  if (values.end() - values.begin() != expected.size()) return HUGE_VAL;
  double largest = 0;
  const double* other = expected.begin();
  for (const double x : values) {
    const double error = x == *other ? 0 : std::fabs(x - *other) / std::max(1.0, std::fabs(*other));
    if (!(error <= largest)) largest = error;
    ++other;
  }
  return largest;
}

constexpr double tolerance = 1e-12;

}  // namespace

TEST_CASE("the reference of softmax and its gradients agrees with golden cases") {
  const auto cases = golden::read_softmax_cases();
  REQUIRE(cases.size() >= 27);
  for (const softmax_case& c : cases) {
    INFO(c.name);
    const problem p(c);
    const auto forward = reference::softmax<double>(p.q, p.k, p.v, p.call);
    CHECK(worst(forward.out, c.get<double, 4>("out")) <= tolerance);
    CHECK(worst(forward.lse, c.get<double, 3>("lse")) <= tolerance);
    const auto gradients = reference::softmax_backward<double>(p.q, p.k, p.v, p.dout, p.dlse, p.call);
    CHECK(worst(gradients.dq, c.get<double, 4>("dq")) <= tolerance);
    CHECK(worst(gradients.dk, c.get<double, 4>("dk")) <= tolerance);
    CHECK(worst(gradients.dv, c.get<double, 4>("dv")) <= tolerance);
    if (c.has("bias")) CHECK(worst(gradients.dbias, c.get<double, 4>("dbias")) <= tolerance);
    if (c.has("sink")) CHECK(worst(gradients.dsink, c.get<double, 1>("dsink")) <= tolerance);
    if (c.has("slopes")) CHECK(worst(gradients.dscore, c.get<double, 1>("dslopes")) <= tolerance);
  }
}

TEST_CASE("golden cases have every feature") {
  const auto cases = golden::read_softmax_cases();
  for (const char* tensor : {"bias", "dbias", "slopes", "dslopes", "sink", "dsink", "dlse"})
    CHECK(std::any_of(cases.begin(), cases.end(), [&](const softmax_case& c) { return c.has(tensor); }));
  for (const char* number : {"scale", "softcap", "causal", "window_left", "window_right", "q_offset", "kv_offset"})
    CHECK(std::any_of(cases.begin(), cases.end(), [&](const softmax_case& c) { return c.number(number, -99) != -99; }));
}
