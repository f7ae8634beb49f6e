#include "ops/softmax/backward.hpp"
#include "ops/softmax/statistics.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"

#include <heed/mod/masks.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

using namespace softmax_test;

namespace {

template <class T, int Rank>
double largest_difference(const view<const T, Rank>& a, const view<const T, Rank>& b) {
  double worst = 0;
  for (index_t i = 0; i < a.extent(0); ++i) {
    if constexpr (Rank == 1)
      worst = worse(worst, std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    else
      worst = worse(worst, largest_difference<T, Rank - 1>(a[i], b[i]));
  }
  return worst;
}

}  // namespace

TEMPLATE_TEST_CASE("weighted column sums are the gradient by values of size 1", "", float, double) {
  using S = TestType;
  for (const bool causal : {false, true}) {
    backward_problem<S> p({2, 4, 2, 210, 150, 24, 1});
    tensor<S, 3> sum({2, 2, 150});
    const view<const S, 3> weights(p.dout.data(), {2, 4, 210});
    if (causal) {
      solve<S>(p, {}, heed::causal{});
      heed::softmax_column_statistics(p.q, p.k, p.lse, {.sum = sum, .row_weights = weights}, {}, heed::causal{});
    } else {
      solve<S>(p, {});
      heed::softmax_column_statistics(p.q, p.k, p.lse, {.sum = sum, .row_weights = weights});
    }
    const view<const S, 3> dv(p.dv.data(), {2, 2, 150});
    CAPTURE(causal);
    CHECK(largest_difference<S, 3>(sum, dv) <= 128 * roundoff<S>);
  }
}

TEMPLATE_TEST_CASE("weights times values are the output", "", float, double, heed::bfloat16) {
  using S = TestType;
  using T = heed::accumulator_t<S>;
  problem<S> p({2, 4, 2, 70, 150, 24, 6});
  const auto sink = support::normal_tensor<T, 1>({4}, p.random);
  heed::softmax_forward(p.q, p.k, p.v, p.out, {.sink = sink, .lse = p.lse}, heed::causal{});
  tensor<T, 4> weights({2, 4, 70, 150});
  heed::softmax_weights(p.q, p.k, p.lse, {}, weights, {}, heed::causal{});
  double worst = 0;
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 4; ++h)
      for (index_t i = 0; i < 70; ++i)
        for (index_t e = 0; e < 6; ++e) {
          double out = 0;
          for (index_t j = 0; j < 150; ++j)
            out += static_cast<double>(weights(b, h, i, j)) * static_cast<double>(p.v(b, h / 2, j, e));
          worst = worse(worst, std::fabs(static_cast<double>(p.out(b, h, i, e)) - out) -
                                   roundoff<S> * std::fabs(static_cast<double>(p.out(b, h, i, e))));
        }
  CHECK(worst <= 64 * roundoff<T>);
}

TEST_CASE("all keys of a row, in the order of their weights, sum to 1") {
  for (const index_t K : {150, 170}) {
    problem<float> p({1, 2, 1, 40, 150, 16, 4});
    heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse});
    tensor<float, 4> weights({1, 2, 40, K});
    tensor<std::int32_t, 4> keys({1, 2, 40, K});
    heed::softmax_top_keys(p.q, p.k, p.lse, {}, weights, keys);
    double worst = 0;
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 40; ++i) {
        double sum = 0, keys_sum = 0;
        for (index_t n = 0; n < K; ++n) {
          sum += weights(0, h, i, n);
          if (n < 150) keys_sum += keys(0, h, i, n);
        }
        worst = worse(worst, std::fabs(sum - 1));
        CHECK(keys_sum == 150 * 149 / 2);
      }
    CHECK(worst <= 4e-6);
  }
}

TEST_CASE("among equal weights the lowest key comes first, in whatever order the mask lets keys be visited") {
  // Keys that all queries of a tile see, the later ones here, are visited before those that only some see.
  problem<float> p({1, 1, 1, 150, 300, 8, 1});
  const softmax_statistics_options<float> flat{.scale = 0, .window_left = 60};
  heed::softmax_forward(p.q, p.k, p.v, p.out, {.scale = 0, .lse = p.lse, .window_left = 60});
  tensor<float, 4> weights({1, 1, 150, 40});
  tensor<std::int32_t, 4> keys({1, 1, 150, 40});
  tensor<std::int32_t, 3> argmax({1, 1, 150});
  heed::softmax_top_keys(p.q, p.k, p.lse, {}, weights, keys, flat);
  heed::softmax_row_statistics(p.q, p.k, p.lse, {.argmax = argmax}, flat);
  bool right = true;
  for (index_t i = 0; i < 150; ++i) {
    right = right && argmax(0, 0, i) == i + 90;
    for (index_t n = 0; n < 40; ++n) right = right && keys(0, 0, i, n) == i + 90 + n;
  }
  CHECK(right);
}

TEST_CASE("the entropy of equal weights is the logarithm of their number, of one weight 0") {
  problem<float> p({1, 2, 1, 300, 300, 8, 1});
  tensor<float, 3> entropy({1, 2, 300}), distance({1, 2, 300});
  heed::softmax_forward(p.q, p.k, p.v, p.out, {.scale = 0, .lse = p.lse}, heed::causal{});
  heed::softmax_row_statistics(p.q, p.k, p.lse, {.entropy = entropy, .distance = distance}, {.scale = 0},
                               heed::causal{});
  CHECK(entropy(0, 1, 0) == 0);
  for (index_t i = 0; i < 300; ++i) {
    CHECK(std::fabs(entropy(0, 1, i) - std::log(double(i + 1))) <= 2e-6);
    CHECK(std::fabs(distance(0, 1, i) - double(i) / 2) <= 1e-4);
  }
}

TEST_CASE("entropy leaves the sink out, whatever its size; weights do not") {
  problem<float> p({1, 2, 1, 60, 200, 16, 1});
  tensor<float, 3> without({1, 2, 60}), entropy({1, 2, 60}), max({1, 2, 60});
  heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse});
  heed::softmax_row_statistics(p.q, p.k, p.lse, {.entropy = without});
  for (const float logit : {-3.f, 5.f, 60.f, 1000.f}) {
    const auto sink = tensor<float, 1>::full({2}, logit);
    heed::softmax_forward(p.q, p.k, p.v, p.out, {.sink = sink, .lse = p.lse});
    heed::softmax_row_statistics(p.q, p.k, p.lse, {.entropy = entropy, .max = max});
    CAPTURE(logit);
    // Scores are known to an ulp of what they are relative to.
    CHECK(largest_difference<float, 3>(entropy, without) <= 4e-6 + 4 * double(std::fabs(logit)) * 0x1p-24);
    for (index_t i = 0; i < 60; ++i) CHECK(max(0, 0, i) <= std::exp(std::min(0.f, 12 - logit)));
  }
}

TEST_CASE("scores of any finite size give finite statistics") {
  for (const double scale : {300.0, -3000.0, 1e4}) {
    statistics_problem<float> p({1, 2, 1, 130, 200, 16, 1});
    CAPTURE(scale);
    CHECK(statistics_error<float>(p, {.scale = scale}) <= 1);
    CHECK(all_finite(p.entropy));
    CHECK(all_finite(p.distance));
    CHECK(all_finite(p.head_sum));
  }
}

TEMPLATE_TEST_CASE("statistics may lie anywhere: strides change no bit, and nothing beside them is written", "", float,
                   heed::float16) {
  using S = TestType;
  using T = heed::accumulator_t<S>;
  using support::guarded;
  const shape s{2, 4, 2, 130, 150, 24, 1};
  statistics_problem<S> dense(s);
  solve<S>(dense, {.window_left = 90});
  const auto R = static_cast<index_t>(dense.rows.size());
  for (const support::layout where : support::layouts) {
    const T nan = support::quiet_nan<T>, canary(-777);
    guarded<T, 4> weights({2, 4, R, 150}, where, nan, canary), top({2, 4, 130, 5}, where, nan, canary);
    guarded<std::int32_t, 4> keys({2, 4, 130, 5}, where, -7, -777);
    guarded<T, 3> entropy({2, 4, 130}, where, nan, canary), sum({2, 4, 150}, where, nan, canary);
    guarded<std::int32_t, 3> last({2, 4, 150}, where, -7, -777);
    const softmax_statistics_options<S> options{.window_left = 90};
    heed::softmax_weights(dense.q, dense.k, dense.lse, dense.rows, weights.all(), options);
    heed::softmax_top_keys(dense.q, dense.k, dense.lse, {}, top.all(), keys.all(), options);
    heed::softmax_row_statistics(dense.q, dense.k, dense.lse, {.entropy = entropy.all()}, options);
    heed::softmax_column_statistics(dense.q, dense.k, dense.lse,
                                    {.sum = sum.all(), .last_row = last.all(), .threshold = dense.threshold}, options);
    CAPTURE(static_cast<int>(where), heed::dtype_name<S>);
    CHECK(same_bits<T, 4>(weights.all(), dense.weights));
    CHECK(same_bits<T, 4>(top.all(), dense.top_weights));
    CHECK(same_bits<std::int32_t, 4>(keys.all(), dense.top_keys));
    CHECK(same_bits<T, 3>(entropy.all(), dense.entropy));
    CHECK(same_bits<T, 3>(sum.all(), dense.head_sum));
    CHECK(same_bits<std::int32_t, 3>(last.all(), dense.head_last));
    CHECK((weights.intact() && top.intact() && keys.intact() && entropy.intact() && sum.intact() && last.intact()));
  }
}
