// Mixers of examples/training against finite differences in double.
#include "mixers.hpp"

#include "gradient_check.hpp"
#include "support/catch.hpp"

using namespace training;

namespace {

void check_mixer(const char* name, const mixer_shape& shape) {
  INFO(name);
  parameters<double> all(1);
  const auto mixer = make_mixer(name, all, shape);
  check_gradients(
      all, numbers(14, 5, 0),
      {[&](const table& x) { return mixer->forward(x, 2); }, [&](const table& dy) { return mixer->backward(dy); }});
}

}  // namespace

TEST_CASE("training: gradients of mixers") {
  const mixer_shape shape{.width = 5, .heads = 2, .features = 3, .value_features = 4, .slots = 3, .taps = 2};
  for (const char* name : {"softmax", "linear", "gla", "gsa"}) check_mixer(name, shape);
}

TEST_CASE("training: gradients of mixers that are not as published") {
  const mixer_shape shape{.width = 5,
                          .heads = 2,
                          .features = 3,
                          .value_features = 4,
                          .slots = 3,
                          .taps = 1,
                          .norm_keys = true,
                          .features_of_keys = heed::feature_map::identity,
                          .gate_damping = 2,
                          .gate_gain = 3};
  for (const char* name : {"softmax", "linear", "gla", "gsa"}) check_mixer(name, shape);
}

TEST_CASE("training: normed queries and keys are of the same length in every head") {
  const mixer_shape shape{.width = 5, .heads = 2, .features = 3, .value_features = 4, .norm_keys = true};
  parameters<double> all(1);
  const auto mixer = make_mixer("softmax", all, shape);
  table x = numbers(14, 5, 0);
  const table before = mixer->forward(x, 2);
  // All that a token's scores depend on are directions; longer values are normed away in the end.
  CHECK(mixer->forward(8 * x, 2).isApprox(before, 1e-4));
}

TEST_CASE("training: no token of a mixer's output depends on later ones, or on other sequences") {
  const mixer_shape shape{.width = 5, .heads = 2, .features = 3, .value_features = 4, .slots = 3};
  for (const char* name : {"softmax", "linear", "gla", "gsa"}) {
    INFO(name);
    parameters<double> all(1);
    const auto mixer = make_mixer(name, all, shape);
    table x = numbers(14, 5, 0);
    const table before = mixer->forward(x, 2);
    x.row(4).setConstant(7);
    const table after = mixer->forward(x, 2);
    CHECK(after.topRows(4).isApprox(before.topRows(4), 1e-12));
    CHECK(after.row(4) != before.row(4));
    CHECK(after.bottomRows(7).isApprox(before.bottomRows(7), 1e-12));
  }
}

TEST_CASE("training: mixers know their names") {
  parameters<float> all(1);
  CHECK_THROWS_AS(make_mixer("mamba", all, mixer_shape{}), std::invalid_argument);
}
