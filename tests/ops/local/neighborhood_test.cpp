// Neighborhood attention and its gradients against the definition, and what follows from the definition.
#include "ops/local/neighborhood.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"

using namespace neighborhood_test;

namespace {

/// An axis of up to `most` tokens.
neighborhood_axis draw_axis(support::random_engine& random, index_t most, bool plain) {
  using support::draw;
  neighborhood_axis a{static_cast<int>(draw(random, 2, most)), 2};
  if (!plain) a.dilation = static_cast<int>(draw(random, 1, std::min(3, a.length / 2)));
  a.window = static_cast<int>(draw(random, 2, a.length / a.dilation));
  if (plain) return a;
  a.stride = static_cast<int>(draw(random, 1, a.window));
  a.causal = draw(random, 0, 3) == 0;
  return a;
}

shape draw_shape(support::random_engine& random) {
  using support::draw;
  const index_t rank = draw(random, 1, 3), most[] = {140, 17, 7};
  shape s;
  s.bias = draw(random, 0, 2) == 0;
  for (index_t i = 0; i < rank; ++i) s.axes.push_back(draw_axis(random, most[rank - 1], s.bias));
  s.G = draw(random, 1, 2);
  s.H = s.G * draw(random, 1, 2);
  s.D = draw(random, 1, 20);
  s.E = draw(random, 1, 20);
  s.M2 = std::max<index_t>(0, draw(random, -2, 4));
  return s;
}

}  // namespace

TEMPLATE_TEST_CASE("neighborhood attention and its gradients agree with the definition", "", float, double) {
  for (const shape& s : shapes()) {
    CAPTURE(heed::dtype_name<TestType>, name_of(s));
    problem<TestType> p(s);
    solve(p);
    CHECK(error_of(p) <= 1);
  }
}

TEST_CASE("neighborhood attention agrees with the definition on random grids") {
  support::random_engine random(5);
  for (int round = 0; round < (support::small_grid() ? 10 : 60); ++round) {
    const shape s = draw_shape(random);
    CAPTURE(round, name_of(s));
    problem<float> p(s, static_cast<unsigned>(round));
    if (round % 3 == 1) p.softcap = 2;
    if (round % 4 == 1) p.scale = -0.7;
    solve(p);
    CHECK(error_of(p) <= 1);
  }
}

TEST_CASE("the definition shows every query of axes that are not causal the product of the windows") {
  support::random_engine random(6);
  for (int round = 0; round < 20; ++round) {
    const shape s = draw_shape(random);
    const reference::neighborhood_pairs pairs(s.axes);
    index_t most = 1;
    bool causal = false;
    for (const neighborhood_axis& a : s.axes) {
      most *= a.window;
      causal = causal || a.causal;
    }
    for (index_t i = 0; i < pairs.tokens(); ++i) {
      index_t count = 0;
      for (index_t j = 0; j < pairs.tokens(); ++j) count += pairs.visible(i, j) ? 1 : 0;
      CHECK((causal ? count <= most && pairs.visible(i, i) : count == most));
    }
  }
}

TEST_CASE("a window as long as the axis is full attention") {
  problem<double> p({{{9, 9}, {14, 14}}, 2, 4, 2, 8, 5});
  softmax_test::backward_problem<double> full({2, 4, 2, 126, 126, 8, 5});
  full.q = p.q;
  full.k = p.k;
  full.v = p.v;
  full.dout = p.dout;
  solve(p);
  softmax_test::solve<double>(full, {.dlse = p.dlse});
  for (const auto& [a, b] : {std::pair{&p.out, &full.out}, {&p.dq, &full.dq}, {&p.dk, &full.dk}, {&p.dv, &full.dv}})
    for (index_t i = 0; i < a->size(); ++i) CHECK(a->data()[i] == Catch::Approx(b->data()[i]).margin(1e-12));
}

TEST_CASE("a stride as long as the window is attention within blocks") {
  // 12 tokens in blocks of 4, whatever stands before and after them.
  problem<double> p({{{12, 4, 4}}, 1, 1, 1, 8, 8});
  solve(p);
  for (index_t block = 0; block < 3; ++block) {
    problem<double> one({{{4, 4}}, 1, 1, 1, 8, 8});
    for (auto [from, to] : {std::pair{&p.q, &one.q}, {&p.k, &one.k}, {&p.v, &one.v}, {&p.dout, &one.dout}})
      std::copy_n(from->data() + block * 32, 32, to->data());
    std::copy_n(p.dlse.data() + block * 4, 4, one.dlse.data());
    solve(one);
    for (const auto& [a, b] : {std::pair{&p.out, &one.out}, {&p.dq, &one.dq}, {&p.dk, &one.dk}, {&p.dv, &one.dv}})
      for (index_t i = 0; i < 32; ++i) CHECK(a->data()[block * 32 + i] == Catch::Approx(b->data()[i]).margin(1e-12));
  }
}

TEST_CASE("a dilation is as many separate problems, bit for bit") {
  constexpr index_t d = 3, length = 25, D = 8;
  problem<float> p({{{int(length), 7, 2, int(d)}}, 1, 2, 1, D, D});
  solve(p);
  for (index_t g = 0; g < d; ++g) {
    const index_t size = (length - g + d - 1) / d;
    const auto every = [&](auto& t) {
      const auto all = t.all();
      return view<std::remove_pointer_t<decltype(t.data())>, 4>(&all(0, 0, g, 0), {1, all.extent(1), size, D},
                                                                {all.stride(0), all.stride(1), d * all.stride(2), 1});
    };
    tensor<float, 4> out({1, 2, size, D});
    const view<const float, 4> q = every(p.q), k = every(p.k), v = every(p.v), expected = every(p.out);
    heed::neighborhood_forward(q, k, v, out, {{.length = int(size), .window = 7, .stride = 2}});
    CHECK(same_bits<float, 4>(out, expected));
  }
}

TEST_CASE("neighborhood attention is softmax attention under the neighborhood mask") {
  const axes_list axes = {{11, 5, 2}, {12, 4, 1, 2, true}};
  problem<float> p({axes, 2, 4, 2, 8, 5});
  softmax_test::backward_problem<float> masked({2, 4, 2, 132, 132, 8, 5});
  masked.q = p.q;
  masked.k = p.k;
  masked.v = p.v;
  masked.dout = p.dout;
  solve(p);
  softmax_test::solve<float>(masked, {.dlse = p.dlse}, heed::neighborhood<2>({axes[0], axes[1]}));
  for (const auto& [a, b] :
       {std::pair{&p.out, &masked.out}, {&p.dq, &masked.dq}, {&p.dk, &masked.dk}, {&p.dv, &masked.dv}})
    for (index_t i = 0; i < a->size(); ++i) CHECK(a->data()[i] == Catch::Approx(b->data()[i]).margin(2e-5));
}

TEST_CASE("a table of zeros changes nothing but roundings; one number for all entries, only lse") {
  problem<double> plain({{{12, 5}, {9, 4}}, 1, 2, 1, 8, 8}), same({{{12, 5}, {9, 4}}, 1, 2, 1, 8, 8, 0, true});
  same.q = plain.q;
  same.k = plain.k;
  same.v = plain.v;
  solve(plain);
  for (const double c : {0.0, 3.5}) {
    same.bias.fill(c);
    solve(same);
    for (index_t i = 0; i < plain.out.size(); ++i)
      CHECK(same.out.data()[i] == Catch::Approx(plain.out.data()[i]).margin(1e-12));
    for (index_t i = 0; i < plain.lse.size(); ++i)
      CHECK(same.lse.data()[i] == Catch::Approx(plain.lse.data()[i] + c).margin(1e-12));
  }
}

TEST_CASE("one axis needs no list") {
  problem<float> p({{{50, 7}}, 1, 2, 1, 8, 8}), other({{{50, 7}}, 1, 2, 1, 8, 8});
  const neighborhood_axis axis{.length = 50, .window = 7};
  heed::neighborhood_forward(p.q, p.k, p.v, p.out, axis);
  heed::neighborhood_forward(p.q, p.k, p.v, other.out, {{.length = 50, .window = 7}});
  CHECK(same_bits<float, 4>(p.out, other.out));
}
