#include "ops/softmax/backward.hpp"
#include "support/catch.hpp"

#include <heed/mod/masks.hpp>

#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

using namespace softmax_test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

template <class S>
std::vector<S> poisons() {
  return {support::quiet_nan<S>, S(std::numeric_limits<double>::infinity()),
          S(-std::numeric_limits<double>::infinity())};
}

/// Solves the same problem as it is, and with NaN or infinity in the keys and values, and in the queries and upstream
/// gradients, that have no part in it. No gradient may change.
template <class S>
void check_unseen(const shape& s, const std::function<bool(index_t b, index_t j)>& seen,
                  const std::function<bool(index_t b, index_t i)>& sees, const auto& solve_it) {
  backward_problem<S> clean(s);
  solve_it(clean);
  CHECK(all_finite(clean.dq));
  CHECK(all_finite(clean.dk));
  CHECK(all_finite(clean.dv));
  for (const S poison : poisons<S>()) {
    backward_problem<S> p(s);
    for (index_t b = 0; b < s.B; ++b) {
      for (index_t j = 0; j < s.M; ++j)
        for (index_t g = 0; g < s.G && !seen(b, j); ++g) {
          for (index_t d = 0; d < s.D; ++d) p.k(b, g, j, d) = poison;
          for (index_t e = 0; e < s.E; ++e) p.v(b, g, j, e) = poison;
        }
      for (index_t i = 0; i < s.N; ++i)
        for (index_t h = 0; h < s.H && !sees(b, i); ++h) {
          for (index_t d = 0; d < s.D; ++d) p.q(b, h, i, d) = poison;
          for (index_t e = 0; e < s.E; ++e) p.dout(b, h, i, e) = poison;
          p.dlse(b, h, i) = support::quiet_nan<typename backward_problem<S>::T>;
        }
    }
    solve_it(p);
    CAPTURE(static_cast<double>(poison), heed::dtype_name<S>);
    CHECK(same_bits<S, 4>(p.dq, clean.dq));
    CHECK(same_bits<S, 4>(p.dk, clean.dk));
    CHECK(same_bits<S, 4>(p.dv, clean.dv));
  }
}

constexpr shape usual{2, 2, 1, 90, 170, 24, 20};

}  // namespace

TEMPLATE_TEST_CASE("NaN in pairs that a window hides reaches no gradient", "", float, double, heed::bfloat16) {
  // Queries at 125 .. 214: those past 199 see nothing.
  check_unseen<TestType>(
      usual, [](index_t, index_t j) { return j >= 95; }, [](index_t, index_t i) { return i < 75; },
      [](auto& p) { solve<TestType>(p, {.dlse = p.dlse, .window_left = 30, .window_right = 0, .q_offset = 125}); });
}

TEST_CASE("NaN that causal order hides reaches no gradient") {
  check_unseen<float>(
      usual, [](index_t, index_t j) { return j < 69; }, [](index_t, index_t i) { return i >= 21; },
      [](auto& p) { solve<float>(p, {.dlse = p.dlse, .q_offset = -21}, heed::causal{}); });
}

TEST_CASE("NaN in padded keys and values reaches no gradient, by batch entry") {
  const std::vector<std::int32_t> lengths{100, 17};
  check_unseen<float>(
      usual, [&](index_t b, index_t j) { return j < lengths[static_cast<std::size_t>(b)]; },
      [](index_t, index_t) { return true; }, [&](auto& p) { solve<float>(p, {}, heed::padding{lengths}); });
}

TEST_CASE("NaN in pairs that a lambda, a score mod or a bias excludes reaches no gradient") {
  const auto third = [](index_t, index_t j) { return j % 3 == 1; };
  const auto all = [](index_t, index_t) { return true; };
  check_unseen<float>(
      usual, third, [](index_t, index_t i) { return i % 5 != 2; },
      [](auto& p) {
        solve<float>(p, {.dlse = p.dlse}, [](position at) { return at.kv % 3 == 1 && (at.q - 80) % 5 != 2; });
      });
  check_unseen<float>(usual, third, all, [](auto& p) {
    solve<float>(p, {}, [](auto s, auto at) { return at.kv % 3 != 1 ? decltype(s)(-infinity) : s * 0.5f; });
  });
  tensor<float, 4> bias({1, 1, 1, usual.M});
  for (index_t j = 0; j < usual.M; ++j) bias(0, 0, 0, j) = j % 3 == 1 ? 0.5f : -infinity;
  check_unseen<float>(usual, third, all, [&](auto& p) { solve<float>(p, {.bias = bias}); });
}

TEST_CASE("NaN past the last packed sequence reaches no gradient") {
  const std::vector<std::int32_t> cu_q{0, 10, 83}, cu_k{0, 90, 150};
  check_unseen<float>(
      {1, 2, 1, 90, 170, 24, 20}, [](index_t, index_t) { return true; }, [](index_t, index_t) { return true; },
      [&](auto& p) {
        for (tensor<float, 4>* t : {&p.q, &p.dout})
          for (index_t i = 83; i < 90; ++i) (*t)(0, 1, i, 0) = support::quiet_nan<float>;
        for (tensor<float, 4>* t : {&p.k, &p.v})
          for (index_t j = 150; j < 170; ++j) (*t)(0, 0, j, 0) = support::quiet_nan<float>;
        for (tensor<float, 4>* t : {&p.dq, &p.dk, &p.dv})
          for (float& x : *t) x = 0;
        solve<float>(p, {.cu_seqlens_q = cu_q, .cu_seqlens_k = cu_k});
      });
}

TEST_CASE("a NaN query or upstream gradient reaches exactly the keys that it sees") {
  for (const bool in_query : {true, false})
    for (const index_t poisoned : {0, 5, 64, 149}) {
      backward_problem<float> p({1, 1, 1, 150, 150, 16, 8});
      (in_query ? p.q : p.dout)(0, 0, poisoned, 3) = support::quiet_nan<float>;
      solve<float>(p, {}, heed::causal{});
      bool right = true;
      for (index_t j = 0; j < 150; ++j)
        for (index_t d = 0; d < 16; ++d) {
          right = right && std::isnan(p.dk(0, 0, j, d)) == (j <= poisoned);
          right = right && std::isnan(p.dq(0, 0, j, d)) == (j == poisoned);
        }
      for (index_t j = 0; j < 150; ++j)
        for (index_t e = 0; e < 8; ++e)
          right = right && std::isnan(p.dv(0, 0, j, e)) == (j <= poisoned && (in_query || e == 3));
      CAPTURE(in_query, poisoned);
      CHECK(right);
    }
}

TEST_CASE("gradients of rows that see nothing are zero, whatever their upstream gradients hold") {
  backward_problem<float> p({1, 2, 1, 150, 100, 16, 8});
  for (index_t i = 0; i < 50; ++i) {
    p.dout(0, 1, i, 2) = infinity;
    p.dlse(0, 1, i) = support::quiet_nan<float>;
  }
  solve<float>(p, {.dlse = p.dlse}, heed::causal{});
  bool zero = true;
  for (index_t i = 0; i < 50; ++i)
    for (index_t d = 0; d < 16; ++d) zero = zero && p.dq(0, 1, i, d) == 0;
  CHECK(zero);
  CHECK(all_finite(p.dk));
  CHECK(all_finite(p.dv));
}
