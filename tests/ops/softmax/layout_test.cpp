#include "ops/softmax/problem.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"

#include <vector>

using namespace softmax_test;
using support::copy_into;
using support::guarded;
using support::laid_out;
using support::layout;

namespace {

constexpr shape shapes[] = {
    {2, 4, 2, 19, 37, 24, 16}, {1, 3, 1, 65, 130, 33, 3}, {2, 2, 2, 7, 5, 1, 1}, {1, 2, 2, 1, 200, 64, 80}};

}  // namespace

TEMPLATE_TEST_CASE("strides and padding change no bit, and nothing outside the tensors is read or written", "", float,
                   double, heed::bfloat16, heed::float16) {
  using T = heed::accumulator_t<TestType>;
  for (const shape& s : shapes) {
    problem<TestType> dense(s);
    heed::softmax_forward(dense.q, dense.k, dense.v, dense.out,
                          {.lse = dense.lse, .window_left = 90, .window_right = 3});
    for (const layout in : support::layouts)
      for (const layout out : support::layouts) {
        CAPTURE(s.N, s.M, s.D, s.E, static_cast<int>(in), static_cast<int>(out), heed::dtype_name<TestType>);
        const auto q = laid_out(dense.q, in), k = laid_out(dense.k, in), v = laid_out(dense.v, in);
        guarded<TestType, 4> o({s.B, s.H, s.N, s.E}, out, support::quiet_nan<TestType>, TestType(-777));
        guarded<T, 3> lse({s.B, s.H, s.N}, out, support::quiet_nan<T>, T(-777));
        heed::softmax_forward(q.all(), k.all(), v.all(), o.all(),
                              {.lse = lse.all(), .window_left = 90, .window_right = 3});
        CHECK(same_bits<TestType, 4>(o.all(), dense.out));
        CHECK(same_bits<T, 3>(lse.all(), dense.lse));
        CHECK(o.intact());
        CHECK(lse.intact());
      }
  }
}

TEST_CASE("q, k, v and out may lie interleaved in one record per token") {
  const index_t B = 2, N = 50, H = 4, G = 2, D = 20;
  problem<float> p({B, H, G, N, N, D, D});
  const index_t width = (2 * H + 2 * G) * D;
  std::vector<float> records(static_cast<std::size_t>(B * N * width), -777.f);
  const auto part = [&](index_t first_head, index_t heads) {
    return view<float, 4>(records.data() + first_head * D, {B, heads, N, D}, {N * width, D, width, 1});
  };
  copy_into<float>(p.q, part(0, H));
  copy_into<float>(p.k, part(H, G));
  copy_into<float>(p.v, part(H + G, G));
  heed::softmax_forward(part(0, H), part(H, G), part(H + G, G), part(H + 2 * G, H));
  heed::softmax_forward(p.q, p.k, p.v, p.out);
  CHECK(same_bits<float, 4>(part(H + 2 * G, H), p.out));
  CHECK(same_bits<float, 4>(part(0, H), p.q));
  CHECK(same_bits<float, 4>(part(H, G), p.k));
  CHECK(same_bits<float, 4>(part(H + G, G), p.v));
}

TEST_CASE("inputs may be broadcast along batch entries and heads") {
  problem<float> p({1, 1, 1, 20, 30, 16, 8});
  heed::softmax_forward(p.q, p.k, p.v, p.out);
  tensor<float, 4> out({3, 2, 20, 8});
  const auto spread = [](const tensor<float, 4>& t) { return t.all().broadcast(0, 3).broadcast(1, 2); };
  heed::softmax_forward(spread(p.q), spread(p.k), spread(p.v), out);
  for (index_t b = 0; b < 3; ++b)
    for (index_t h = 0; h < 2; ++h) CHECK(same_bits<float, 2>(view<const float, 4>(out)[b][h], p.out.all()[0][0]));
}
