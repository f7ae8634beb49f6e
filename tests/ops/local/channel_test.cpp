// Channel attention against its definition, and what follows from the definition.
#include "ops/local/channel.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"
#include "support/guarded.hpp"
#include "support/shuffling_executor.hpp"

#include <heed/ops/softmax/forward.hpp>

#include <vector>

using namespace local_test;
using support::copy_into;

namespace {

/// Tails of blocks and vectors, one to many parts of the positions, nothing.
std::vector<channel_shape> shapes() {
  if (support::small_grid()) return {{2, 2, 70, 5}, {1, 1, 1200, 16}};
  return {{1, 1, 1, 1}, {2, 3, 70, 5}, {1, 2, 64, 32}, {1, 1, 1200, 16}, {3, 1, 65, 33},
          {1, 2, 0, 8}, {0, 2, 5, 8},  {1, 0, 5, 8},   {2, 2, 300, 24}};
}

template <class S, class A = heed::default_arch>
void check_shape(const channel_shape& s) {
  for (const bool own_scale : {false, true}) {
    channel_problem<S> p(s);
    channel_options o;
    if (own_scale) o.scale = -0.05;
    CAPTURE(heed::dtype_name<S>, A::name(), s.B, s.H, s.N, s.C, own_scale);
    solve_on<A, S>(p, o);
    CHECK(error_of(p, o) <= 1);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("channel attention and its gradients agree with the definition", "", float, double, heed::bfloat16,
                   heed::float16) {
  for (const channel_shape& s : shapes()) check_shape<TestType>(s);
}

TEST_CASE("channel attention agrees with its definition on every distinct instruction set") {
  support::for_each_distinct_arch([](auto arch) {
    check_shape<float, decltype(arch)>({2, 2, 150, 20});
    check_shape<double, decltype(arch)>({1, 1, 65, 3});
  });
}

TEST_CASE("channel attention is softmax attention of transposed arrays") {
  channel_problem<double> p({2, 3, 90, 12});
  solve(p);
  const auto transposed = [](const tensor<double, 4>& t) {
    tensor<double, 4> other({t.extent(0), t.extent(1), t.extent(3), t.extent(2)});
    copy_into<double, 4>(t.all().swap_axes(2, 3), other.all());
    return other;
  };
  const auto q = transposed(p.q), k = transposed(p.k), v = transposed(p.v);
  tensor<double, 4> out({2, 3, 12, 90});
  heed::softmax_forward(q, k, v, out, {.scale = 1 / std::sqrt(12.0)});
  CHECK(error<double>(p.out, transposed(out)) <= 1);
}

TEST_CASE("permuted positions permute the result, permuted channels of keys and values change nothing") {
  const channel_shape s{1, 2, 601, 12};
  channel_problem<double> p(s), positions(s), channels(s);
  for (index_t h = 0; h < s.H; ++h)
    for (index_t n = 0; n < s.N; ++n) {
      for (const auto& [to, from] : {std::pair{&positions.q, &p.q}, {&positions.k, &p.k}, {&positions.v, &p.v}})
        copy_into<double, 1>(from->all()[0][h][(7 * n + 3) % s.N], to->all()[0][h][n]);
      for (index_t c = 0; c < s.C; ++c) {
        channels.k(0, h, n, c) = p.k(0, h, n, (5 * c + 1) % s.C);
        channels.v(0, h, n, c) = p.v(0, h, n, (5 * c + 1) % s.C);
      }
    }
  solve(p);
  solve(positions);
  solve(channels);
  CHECK(error<double>(channels.out, p.out) <= 1);
  tensor<double, 4> expected({1, s.H, s.N, s.C});
  for (index_t h = 0; h < s.H; ++h)
    for (index_t n = 0; n < s.N; ++n)
      copy_into<double, 1>(p.out.all()[0][h][(7 * n + 3) % s.N], expected.all()[0][h][n]);
  CHECK(error<double>(positions.out, expected) <= 1);
}

TEST_CASE("groups of channels are calls of their own, bit for bit where as many parts are cut") {
  channel_problem<double> whole({1, 3, 200, 8});
  solve(whole);
  for (index_t h = 0; h < 3; ++h) {
    channel_problem<double> one({1, 1, 200, 8});
    for (const auto& [to, from] : {std::pair{&one.q, &whole.q}, {&one.k, &whole.k}, {&one.v, &whole.v}})
      copy_into<double, 2>(from->all()[0][h], to->all()[0][0]);
    solve(one);
    CHECK(same_bits<double, 2>(one.out.all()[0][0], whole.out.all()[0][h]));
  }
}

TEST_CASE("equal values come out as they are, and have no gradient by scores") {
  channel_problem<double> p({1, 2, 130, 8});
  p.v.fill(2.5);
  solve(p);
  for (const double x : p.out) CHECK(x == Catch::Approx(2.5).epsilon(1e-12));
  for (const double x : p.dq) CHECK(std::fabs(x) < 1e-9);
}

TEMPLATE_TEST_CASE("strides change no bit of channel attention, and nothing outside its tensors is touched", "", float,
                   heed::bfloat16) {
  using S = TestType;
  for (const channel_shape& s : {channel_shape{2, 3, 77, 17}, channel_shape{1, 2, 65, 16}})
    for (const support::layout where : support::layouts) {
      channel_problem<S> dense(s);
      solve(dense);
      const auto q = laid_out(dense.q, where), k = laid_out(dense.k, where), v = laid_out(dense.v, where);
      const auto dout = laid_out(dense.dout, where);
      auto out = output_like(dense.out, where), dq = output_like(dense.dq, where), dk = output_like(dense.dk, where),
           dv = output_like(dense.dv, where);
      heed::channel_forward(q.all(), k.all(), v.all(), out.all());
      heed::channel_backward(q.all(), k.all(), v.all(), dout.all(), dq.all(), dk.all(), dv.all());
      CAPTURE(s.N, s.C, static_cast<int>(where));
      const auto check = [](support::guarded<S, 4>& got, const tensor<S, 4>& expected) {
        CHECK(same_bits<S, 4>(got.all(), expected));
        CHECK(got.intact());
      };
      check(out, dense.out);
      check(dq, dense.dq);
      check(dk, dense.dk);
      check(dv, dense.dv);
    }
}

TEST_CASE("channel attention is bit-equal in whatever order and by whatever worker tasks are run") {
  for (const channel_shape& s : {channel_shape{1, 1, 3000, 12}, channel_shape{2, 4, 150, 20}}) {
    channel_problem<float> alone(s);
    solve(alone, {.executor = heed::serial()});
    support::for_each_executor([&](heed::executor_ref where, const char* name) {
      channel_problem<float> p(s);
      solve(p, {.executor = where});
      CAPTURE(name, where.concurrency, s.N);
      CHECK(same_result(p, alone));
    });
  }
}

TEST_CASE("NaN in a value stays at its position, NaN in a query in its channel") {
  channel_problem<float> values({1, 2, 90, 9}), queries = values;
  values.v(0, 0, 80, 7) = support::quiet_nan<float>;
  queries.q(0, 1, 66, 3) = support::quiet_nan<float>;
  solve(values);
  solve(queries);
  for (index_t h = 0; h < 2; ++h)
    for (index_t n = 0; n < 90; ++n)
      for (index_t c = 0; c < 9; ++c) {
        CHECK(std::isnan(values.out(0, h, n, c)) == (h == 0 && n == 80));
        CHECK(std::isnan(queries.out(0, h, n, c)) == (h == 1 && c == 3));
      }
}
