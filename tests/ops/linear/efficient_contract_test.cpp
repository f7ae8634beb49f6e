// What every operator promises, of efficient attention: what is excluded is unread, strides do not matter, nor do
// workers.
#include "ops/linear/efficient.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/shuffling_executor.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

using namespace linear_test;
using support::guarded;
using support::laid_out;
using support::layout;

namespace {

/// One to many parts of keys and of queries.
const efficient_shape shapes[] = {
    {2, 4, 2, 150, 170, 24, 20}, {1, 1, 1, 600, 2500, 16, 8}, {1, 2, 1, 0, 20, 8, 8}, {8, 8, 4, 20, 70, 33, 5}};

template <class S>
bool is_zero(S x) {
  return static_cast<double>(x) == 0;
}

}  // namespace

TEMPLATE_TEST_CASE("keys and values past the lengths are not read by efficient attention, and have no gradient", "",
                   float, heed::bfloat16) {
  using S = TestType;
  const efficient_shape s{3, 4, 2, 70, 600, 24, 20};
  const std::vector<std::int64_t> lengths{600, 77, 0};
  for (const efficient_mode mode : efficient_modes) {
    efficient_problem<S> clean(s);
    solve<S>(clean, {.mode = mode, .kv_lengths = lengths});
    for (const double poison : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      efficient_problem<S> p(s);
      for (index_t b = 0; b < s.B; ++b)
        for (index_t g = 0; g < s.G; ++g)
          for (index_t j = lengths[static_cast<std::size_t>(b)]; j < s.M; ++j) {
            for (index_t d = 0; d < s.D; ++d) p.k(b, g, j, d) = S(poison);
            for (index_t e = 0; e < s.E; ++e) p.v(b, g, j, e) = S(poison);
          }
      solve<S>(p, {.mode = mode, .kv_lengths = lengths});
      CHECK(same_result(p, clean));
    }
    for (index_t h = 0; h < s.H; ++h) {
      CHECK(is_zero(clean.out(2, h, 3, 4)));
      CHECK(is_zero(clean.dq(2, h, 3, 4)));
    }
    for (index_t j = 77; j < s.M; ++j) {
      CHECK(is_zero(clean.dk(1, 1, j, 3)));
      CHECK(is_zero(clean.dv(1, 1, j, 3)));
    }
  }
}

TEST_CASE("NaN in a query stays in its row, NaN in a value in its feature") {
  efficient_problem<float> p({1, 2, 1, 70, 90, 16, 9}), q = p, v = p;
  q.q(0, 1, 66, 3) = support::quiet_nan<float>;
  v.v(0, 0, 80, 7) = support::quiet_nan<float>;
  solve(q);
  solve(v);
  for (index_t h = 0; h < 2; ++h)
    for (index_t i = 0; i < 70; ++i)
      for (index_t e = 0; e < 9; ++e) {
        CHECK(std::isnan(q.out(0, h, i, e)) == (h == 1 && i == 66));
        CHECK(std::isnan(v.out(0, h, i, e)) == (e == 7));
      }
}

TEMPLATE_TEST_CASE("strides change no bit of efficient attention, and nothing outside its tensors is touched", "",
                   float, heed::bfloat16) {
  using S = TestType;
  using T = heed::accumulator_t<S>;
  for (const efficient_shape& s : {efficient_shape{2, 4, 2, 19, 77, 24, 17}, efficient_shape{1, 2, 2, 65, 64, 16, 32}})
    for (const efficient_mode mode : efficient_modes)
      for (const layout where : support::layouts) {
        CAPTURE(s.D, static_cast<int>(mode), static_cast<int>(where));
        efficient_problem<S> dense(s);
        solve<S>(dense, {.mode = mode});
        const auto q = laid_out(dense.q, where), k = laid_out(dense.k, where), v = laid_out(dense.v, where);
        const auto dout = laid_out(dense.dout, where);
        const auto blank = [&](const tensor<S, 4>& like) {
          return guarded<S, 4>({like.extent(0), like.extent(1), like.extent(2), like.extent(3)}, where,
                               support::quiet_nan<S>, S(-777));
        };
        auto out = blank(dense.out), dq = blank(dense.dq), dk = blank(dense.dk), dv = blank(dense.dv);
        guarded<T, 3> key_max({s.B, s.G, s.D}, where, support::quiet_nan<T>, T(-777));
        guarded<T, 3> key_sum({s.B, s.G, s.D}, where, support::quiet_nan<T>, T(-777));
        efficient_options<S> options{.mode = mode};
        if (mode == efficient_mode::softmax) {
          options.key_max = key_max.all();
          options.key_sum = key_sum.all();
        }
        heed::efficient_forward(q.all(), k.all(), v.all(), out.all(), options);
        heed::efficient_backward(q.all(), k.all(), v.all(), key_max.all(), key_sum.all(), dout.all(), dq.all(),
                                 dk.all(), dv.all(), {.mode = mode});
        CHECK(same_bits<T, 3>(key_max.all(), dense.key_max));
        CHECK(same_bits<T, 3>(key_sum.all(), dense.key_sum));
        CHECK(key_max.intact());
        CHECK(key_sum.intact());
        const auto check = [](guarded<S, 4>& got, const tensor<S, 4>& expected) {
          CHECK(same_bits<S, 4>(got.all(), expected));
          CHECK(got.intact());
        };
        check(out, dense.out);
        check(dq, dense.dq);
        check(dk, dense.dk);
        check(dv, dense.dv);
      }
}

TEST_CASE("efficient attention is bit-equal in whatever order and by whatever worker tasks are run") {
  for (const efficient_shape& s : shapes)
    for (const efficient_mode mode : efficient_modes) {
      efficient_problem<float> alone(s);
      solve<float>(alone, {.mode = mode, .executor = heed::serial()});
      const auto check = [&](heed::executor_ref where, const char* name) {
        efficient_problem<float> p(s);
        solve<float>(p, {.mode = mode, .executor = where});
        CAPTURE(name, where.concurrency, s.N, static_cast<int>(mode));
        CHECK(same_result(p, alone));
      };
      support::for_each_executor(check);
#if defined(_OPENMP)
      for (int threads = 1; threads <= 5; ++threads) check(heed::openmp(threads), "openmp");
#endif
    }
}
