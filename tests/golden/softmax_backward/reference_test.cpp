// The reference against the golden cases.
#include "support/catch.hpp"

#include <algorithm>
#include <cmath>

#include "golden/softmax_backward/problem.hpp"

using golden::problem;
using golden::softmax_case;
using heed::tensor;

namespace {

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
