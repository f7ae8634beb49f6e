// Layers of examples/training against finite differences in double, and AdamW against its formula.
#include "gradient_check.hpp"
#include "support/catch.hpp"

namespace {

using namespace training;

template <class Layer>
checked_layer of(Layer& layer) {
  return {[&](const table& x) { return layer.forward(x); }, [&](const table& dy) { return layer.backward(dy); }};
}

}  // namespace

TEST_CASE("training: gradients of linear") {
  parameters<double> all(1);
  linear layer(all, 5, 3);
  check_gradients(all, numbers(7, 5, 0), of(layer));
}

TEST_CASE("training: gradients of rms_norm") {
  parameters<double> all(1);
  rms_norm layer(all, 5);
  check_gradients(all, numbers(70, 5, 0), of(layer));
}

TEST_CASE("training: gradients of short_convolution") {
  for (const index_t length : {2, 7}) {
    parameters<double> all(1);
    short_convolution layer(all, 3, 4, length == 7 ? first_taps::random : first_taps::identity);
    check_gradients(all, numbers(14, 3, 0),
                    {[&](const table& x) { return layer.forward(x, x.rows() / length); },
                     [&](const table& dy) { return layer.backward(dy); }});
  }
}

TEST_CASE("training: a convolution does nothing at first, or something else for each feature") {
  parameters<double> all(1);
  short_convolution nothing(all, 3, 4);
  CHECK(nothing.forward(numbers(6, 3, 0), 1) == numbers(6, 3, 0));
  short_convolution random(all, 3, 4, first_taps::random);
  const table y = random.forward(table::Ones(6, 3), 1);
  CHECK(y(5, 0) != y(5, 1));
  CHECK(y(5, 0) != y(0, 0));
}

TEST_CASE("training: gradients of swiglu") {
  parameters<double> all(1);
  swiglu layer(all, 5, 6);
  check_gradients(all, numbers(7, 5, 0), of(layer));
}

TEST_CASE("training: gradients of embedding") {
  parameters<double> all(1);
  embedding layer(all, 4, 3);
  const token_ids tokens = {2, 0, 2, 3};
  check_gradients(all, table(0, 0),
                  {[&](const table&) { return layer.forward(tokens); },
                   [&](const table& dy) {
                     layer.backward(dy);
                     return table(0, 0);
                   }});
}

TEST_CASE("training: gradients of cross_entropy") {
  parameters<double> all(1);
  const token_ids targets = {1, -1, 0, 4};
  table dlogits;
  check_gradients(all, 3 * numbers(4, 5, 0),
                  {[&](const table& x) { return table::Constant(1, 1, cross_entropy(x, targets, dlogits).loss); },
                   [&](const table& dy) { return table(dy(0, 0) * dlogits); }});

  const prediction_score score = cross_entropy<double>(table::Identity(4, 5), targets, dlogits);
  CHECK(score.rows == 3);
  CHECK(score.right == 0);
  CHECK(cross_entropy<double>(table::Identity(4, 5), {0, -1, 2, 4}, dlogits).right == 2);
}

TEST_CASE("training: AdamW as its formula says, gradients clipped") {
  parameters<double> all(1);
  const parameter<double> decaying = all.normal(1, 1, 1), other = all.constant(1, 1, 2);
  const adamw_options options{.rate = 0.1, .decay = 0.5, .beta1 = 0.9, .beta2 = 0.98, .eps = 1e-3, .largest_norm = 5};
  double value[2] = {decaying.value()(0, 0), 2}, mean[2] = {0, 0}, square[2] = {0, 0};
  const double gradients[][2] = {{3, 4}, {-6, 8}, {0.1, 0}};
  for (int step = 1; step <= 3; ++step) {
    const double* g = gradients[step - 1];
    decaying.gradient()(0, 0) = g[0];
    other.gradient()(0, 0) = g[1];
    const double norm = std::hypot(g[0], g[1]);
    CHECK(all.step(options) == Approx(norm));
    for (int i = 0; i < 2; ++i) {
      const double clipped = g[i] * std::min(1.0, 5 / norm);
      mean[i] = 0.9 * mean[i] + 0.1 * clipped;
      square[i] = 0.98 * square[i] + 0.02 * clipped * clipped;
      const double m = mean[i] / (1 - std::pow(0.9, step)), v = square[i] / (1 - std::pow(0.98, step));
      value[i] -= 0.1 * (m / (std::sqrt(v) + 1e-3) + (i == 0 ? 0.5 * value[i] : 0));
      CHECK(all.values()[static_cast<std::size_t>(i)] == Approx(value[i]).epsilon(1e-12));
      CHECK(all.gradients()[static_cast<std::size_t>(i)] == 0);
    }
  }
}

TEST_CASE("training: the rate rises, then falls to nothing") {
  CHECK(cosine_rate(0, 100, 10, 2) == Approx(0.2));
  CHECK(cosine_rate(9, 100, 10, 2) == Approx(2));
  CHECK(cosine_rate(55, 100, 10, 2) == Approx(1));
  CHECK(cosine_rate(100, 100, 10, 2) == Approx(0).margin(1e-12));
}
