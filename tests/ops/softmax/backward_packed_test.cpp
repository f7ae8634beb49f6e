#include "ops/softmax/backward.hpp"
#include "support/catch.hpp"

#include <heed/mod/masks.hpp>

#include <cstdint>
#include <vector>

using namespace softmax_test;

namespace {

/// Sequences without queries, without keys, without both; long enough for several tasks in one case.
struct lengths {
  std::vector<index_t> queries, keys;
};
const lengths cases[] = {{{5, 0, 70, 1, 0, 33}, {9, 12, 0, 130, 0, 33}}, {{600, 3}, {140, 200}}, {{0}, {7}}};

std::vector<std::int32_t> offsets(const std::vector<index_t>& lengths) {
  std::vector<std::int32_t> cu{0};
  for (const index_t n : lengths) cu.push_back(cu.back() + static_cast<std::int32_t>(n));
  return cu;
}

}  // namespace

TEMPLATE_TEST_CASE("softmax_backward of packed sequences agrees with its definition", "", float, heed::bfloat16) {
  using S = TestType;
  for (const lengths& l : cases)
    for (const bool causal : {false, true}) {
      const std::vector<std::int32_t> cu_q = offsets(l.queries), cu_k = offsets(l.keys);
      // Three rows of each tensor belong to nobody.
      backward_problem<S> p({1, 4, 2, cu_q.back() + 3, cu_k.back() + 3, 24, 12});
      softmax_backward_options<S> options{.dlse = p.dlse, .cu_seqlens_q = cu_q, .cu_seqlens_k = cu_k};
      CAPTURE(cu_q.back(), causal);
      if (causal) options.window_right = 0;
      CHECK(gradient_error<S>(p, options) <= 1);
      bool untouched = true;
      for (index_t h = 0; h < 4; ++h)
        for (index_t i = 0; i < 3; ++i) {
          untouched = untouched && std::isnan(static_cast<double>(p.dq(0, h, cu_q.back() + i, 5)));
          untouched = untouched && std::isnan(static_cast<double>(p.dk(0, h / 2, cu_k.back() + i, 5)));
          untouched = untouched && std::isnan(static_cast<double>(p.dv(0, h / 2, cu_k.back() + i, 5)));
        }
      CHECK(untouched);
    }
}

TEST_CASE("gradients of a packed batch are those of its sequences alone") {
  const std::vector<std::int32_t> cu_q{0, 40, 40, 103}, cu_k{0, 90, 100, 170};
  backward_problem<float> p({1, 4, 2, 103, 170, 16, 8});
  const auto sink = support::normal_tensor<float, 1>({4}, p.random);
  const softmax_backward_options<float> options{.sink = sink, .cu_seqlens_q = cu_q, .cu_seqlens_k = cu_k};
  CHECK(gradient_error<float>(p, options, heed::causal{}) <= 1);
  for (std::size_t s = 0; s < 3; ++s) {
    const index_t q0 = cu_q[s], q1 = cu_q[s + 1], k0 = cu_k[s], k1 = cu_k[s + 1];
    backward_problem<float> own({1, 4, 2, q1 - q0, k1 - k0, 16, 8});
    heed::softmax_backward(p.q.all().slice(2, q0, q1), p.k.all().slice(2, k0, k1), p.v.all().slice(2, k0, k1),
                           p.out.all().slice(2, q0, q1), p.lse.all().slice(2, q0, q1), p.dout.all().slice(2, q0, q1),
                           own.dq, own.dk, own.dv, {.sink = sink}, heed::causal{});
    const auto close = [](const auto& a, const auto& b) {
      double worst = 0;
      for (index_t h = 0; h < a.extent(1); ++h)
        for (index_t i = 0; i < a.extent(2); ++i)
          for (index_t d = 0; d < a.extent(3); ++d)
            worst = worse(worst, std::fabs(double(a(0, h, i, d) - b(0, h, i, d))));
      return worst <= 5e-6;
    };
    CHECK(close(own.dq, p.dq.all().slice(2, q0, q1)));
    CHECK(close(own.dk, p.dk.all().slice(2, k0, k1)));
    CHECK(close(own.dv, p.dv.all().slice(2, k0, k1)));
  }
}
