#include "ops/softmax/problem.hpp"
#include "support/catch.hpp"

#include <heed/mod/masks.hpp>
#include <heed/mod/score.hpp>

#include <limits>
#include <vector>

using namespace softmax_test;

namespace {

constexpr std::pair<index_t, index_t> lengths[] = {{40, 40}, {1, 150}, {130, 70}, {33, 200}};

/// `gain`: the largest derivative of the mods.
template <class S = float, class... Mods>
void check_mods(double gain, const Mods&... mods) {
  for (const auto& [N, M] : lengths) {
    problem<S> p({2, 3, 1, N, M, 16, 12});
    CAPTURE(N, M);
    CHECK(error_of<S>(p, {}, gain, mods...) <= 1);
  }
}

}  // namespace

TEST_CASE("a generic lambda changes scores") {
  check_mods(2, [](auto s, auto at) { return 2 * s - 0.1f * heed::to_real(s, at.q - at.kv); });
}

TEST_CASE("a lambda with concrete types changes scores, called for one pair at a time") {
  check_mods(1.5,
             [](float s, position at) { return at.kv % 2 == 0 ? 1.5f * s : s - 0.25f * static_cast<float>(at.h); });
  check_mods<double>(1, [](double s, const position& at) { return s + 0.01 * at.q * (at.b + 1); });
}

TEST_CASE("a score of -inf excludes a pair") {
  const auto drop = [](auto s, auto at) {
    return heed::select(at.q >= at.kv, s, -std::numeric_limits<float>::infinity());
  };
  check_mods(1, drop);
  problem<float> by_score({1, 2, 2, 50, 170, 8, 8}), by_mask({1, 2, 2, 50, 170, 8, 8});
  heed::softmax_forward(by_score.q, by_score.k, by_score.v, by_score.out, {.lse = by_score.lse}, drop);
  heed::softmax_forward(by_mask.q, by_mask.k, by_mask.v, by_mask.out, {.lse = by_mask.lse}, heed::causal{});
  reference::softmax_arguments causal;
  causal.visible = [](int, int, int p, int t) { return t <= p; };
  const auto expected = reference::softmax<float>(by_score.q, by_score.k, by_score.v, causal);
  CHECK(worst_error(by_score, expected) <= 1);
  CHECK(worst_error(by_mask, expected) <= 1);
}

TEST_CASE("named score mods: softcap, tanh, alibi") {
  const auto slopes = heed::alibi_slopes(3);
  check_mods(1, heed::softcap{1.5});
  check_mods(1, heed::tanh_score{});
  check_mods(1, heed::alibi{slopes}, heed::causal{});
  check_mods(1, heed::symmetric_alibi{slopes});
}

TEST_CASE("named score mods: relative bias, temperature, log activation") {
  support::random_engine random(5);
  const auto table = support::normal_tensor<float, 2>({3, 2 * 40 + 1}, random);
  const std::vector<float> factors{0.5f, 1.f, 2.f};
  check_mods(1, heed::relative_bias{table});
  check_mods(2, heed::temperature{factors});
  const auto squared_relu = [](auto s) { return heed::max(s, 0) * heed::max(s, 0); };
  // Where the score is x, log(x^2 + c) has at most the derivative 1 / sqrt(c).
  check_mods(2, heed::log_activation{squared_relu, 0.25});
}

TEST_CASE("score mods apply from left to right, the mask may stand anywhere among them") {
  const auto doubled = [](auto s, auto) { return 2 * s; };
  const auto raised = [](auto s, auto at) { return s + heed::to_real(s, at.q * 0 + at.kv % 7); };
  check_mods(2, doubled, raised, heed::causal{});
  check_mods(2, raised, heed::causal{}, doubled);
  problem<float> one({1, 1, 1, 10, 20, 8, 8}), other({1, 1, 1, 10, 20, 8, 8});
  heed::softmax_forward(one.q, one.k, one.v, one.out, {}, doubled, raised);
  heed::softmax_forward(other.q, other.k, other.v, other.out, {}, raised, doubled);
  CHECK_FALSE(same_bits<float, 4>(one.out, other.out));
}

TEST_CASE("softcap, bias and score mods come in this order") {
  const auto cubed = [](auto s, auto) { return 0.1f * s * s * s; };
  problem<float> p({1, 2, 1, 30, 140, 16, 8});
  const auto bias = support::normal_tensor<float, 4>({1, 2, 30, 140}, p.random);
  // |s| stays below 1.2 + 5, the derivative below 0.3 s^2.
  CHECK(error_of<float>(p, {.softcap = 1.2, .bias = bias, .window_right = 5}, 12, cubed) <= 1);
}
