// Pooling, biases and the depthwise term of agent attention: against their definitions, and gradients as adjoints.
#include "reference/agent_vision.hpp"
#include "ops/linear/measure.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/refusal.hpp"
#include "support/shuffling_executor.hpp"

#include <heed/linear.hpp>

#include <cmath>
#include <limits>
#include <vector>

using namespace linear_test;
using heed::token_grid;
using reference::image;
using support::guarded;
using support::laid_out;
using support::layout;
using support::normal_tensor;

namespace {

struct grids {
  token_grid tokens, agents;
};
const grids pairs[] = {{{1, 1}, {1, 1}}, {{1, 50}, {1, 7}}, {{14, 14}, {7, 7}}, {{5, 9}, {3, 4}},
                       {{2, 3}, {4, 5}}, {{16, 8}, {2, 8}}, {{7, 1}, {3, 1}}};

/// Channel (b, h, d) of tokens.
template <class S>
image image_of(const view<const S, 4>& t, const token_grid& grid, index_t b, index_t h, index_t d) {
  image x{grid.height, grid.width};
  for (index_t i = 0; i < t.extent(2); ++i) x.pixels[static_cast<std::size_t>(i)] = static_cast<double>(t(b, h, i, d));
  return x;
}

/// What f makes of every channel of tokens, as a tensor.
template <class S, class F>
tensor<double, 4> by_channel(const tensor<S, 4>& t, const token_grid& grid, index_t tokens, const F& f) {
  tensor<double, 4> out({t.extent(0), t.extent(1), tokens, t.extent(3)});
  for (index_t b = 0; b < t.extent(0); ++b)
    for (index_t h = 0; h < t.extent(1); ++h)
      for (index_t d = 0; d < t.extent(3); ++d) {
        const image x = f(image_of<S>(t, grid, b, h, d), h, d);
        for (index_t i = 0; i < tokens; ++i) out(b, h, i, d) = x.pixels[static_cast<std::size_t>(i)];
      }
  return out;
}

template <class S, int Rank>
double dot(const tensor<S, Rank>& a, const tensor<S, Rank>& b) {
  double sum = 0;
  for (index_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a.data()[i]) * static_cast<double>(b.data()[i]);
  return sum;
}

template <class S>
tensor<S, 4> blank(const index_t (&extents)[4]) {
  return tensor<S, 4>::full(extents, support::quiet_nan<S>);
}

/// Maps of 7 x 7 and others, to images that are smaller, larger and no square.
struct bias_shape {
  index_t r, c, h, w;
};
const bias_shape bias_shapes[] = {{7, 7, 14, 14}, {7, 7, 5, 9}, {1, 1, 3, 4},
                                  {3, 5, 1, 20},  {2, 4, 6, 1}, {4, 4, 4, 4}};

template <class S>
struct bias_problem {
  explicit bias_problem(const bias_shape& s, bool queries_first) : random(4), first(queries_first), shape(s) {
    map = normal_tensor<S, 4>({2, n, s.r, s.c}, random);
    rows = first ? normal_tensor<S, 3>({2, s.h, n}, random) : normal_tensor<S, 3>({2, n, s.h}, random);
    columns = first ? normal_tensor<S, 3>({2, s.w, n}, random) : normal_tensor<S, 3>({2, n, s.w}, random);
    out = first ? blank<S>({1, 2, s.h * s.w, n}) : blank<S>({1, 2, n, s.h * s.w});
    dmap = map, drows = rows, dcolumns = columns;
    for (S& x : dmap) x = support::quiet_nan<S>;
    for (S& x : drows) x = support::quiet_nan<S>;
    for (S& x : dcolumns) x = support::quiet_nan<S>;
  }

  void solve(const heed::agent_bias_options& options = {}) {
    if (first)
      heed::query_bias_forward(map, rows, columns, out, options);
    else
      heed::agent_bias_forward(map, rows, columns, out, options);
  }
  void differentiate(const tensor<S, 4>& dout, const heed::agent_bias_options& options = {}) {
    if (first)
      heed::query_bias_backward(dout, dmap, drows, dcolumns, options);
    else
      heed::agent_bias_backward(dout, dmap, drows, dcolumns, options);
  }
  tensor<double, 4> expected() const {
    tensor<double, 4> bias({1, 2, out.extent(2), out.extent(3)});
    for (index_t h = 0; h < 2; ++h)
      for (index_t l = 0; l < n; ++l) {
        image small{shape.r, shape.c};
        for (index_t i = 0; i < shape.r * shape.c; ++i)
          small.pixels[static_cast<std::size_t>(i)] = static_cast<double>(map(h, l, i / shape.c, i % shape.c));
        const image large = resized(small, shape.h, shape.w);
        for (index_t y = 0; y < shape.h; ++y)
          for (index_t x = 0; x < shape.w; ++x)
            (first ? bias(0, h, y * shape.w + x, l) : bias(0, h, l, y * shape.w + x)) =
                large(y, x) + static_cast<double>(first ? rows(h, y, l) : rows(h, l, y)) +
                static_cast<double>(first ? columns(h, x, l) : columns(h, l, x));
      }
    return bias;
  }

  static constexpr index_t n = 3;
  support::random_engine random;
  bool first;
  bias_shape shape;
  tensor<S, 4> map, out, dmap;
  tensor<S, 3> rows, columns, drows, dcolumns;
};

}  // namespace

TEMPLATE_TEST_CASE("agent_pooling_forward averages cells of a grid", "", float, double, heed::bfloat16, heed::float16) {
  using S = TestType;
  for (const grids& g : pairs)
    for (const index_t D : {1, 8, 33}) {
      support::random_engine random(1);
      const index_t N = g.tokens.height * g.tokens.width, n = g.agents.height * g.agents.width;
      const auto x = normal_tensor<S, 4>({2, 3, N, D}, random);
      auto out = blank<S>({2, 3, n, D});
      heed::agent_pooling_forward(x, out, {.tokens = g.tokens, .agents = g.agents});
      CAPTURE(g.tokens.height, g.tokens.width, g.agents.height, g.agents.width, D);
      CHECK(error<S>(out, by_channel(x, g.tokens, n, [&](const image& i, index_t, index_t) {
                       return pooled(i, g.agents.height, g.agents.width);
                     })) <= 1);
      if (g.tokens.height == 1) {
        auto line = blank<S>({2, 3, n, D});
        heed::agent_pooling_forward(x, line);
        CHECK(same_bits<S, 4>(line, out));
      }
    }
}

TEST_CASE("agent_pooling_backward is the adjoint") {
  for (const grids& g : pairs) {
    support::random_engine random(2);
    const index_t N = g.tokens.height * g.tokens.width, n = g.agents.height * g.agents.width;
    const auto x = normal_tensor<double, 4>({2, 3, N, 9}, random),
               dout = normal_tensor<double, 4>({2, 3, n, 9}, random);
    auto out = blank<double>({2, 3, n, 9}), dx = blank<double>({2, 3, N, 9});
    heed::agent_pooling_forward(x, out, {.tokens = g.tokens, .agents = g.agents});
    heed::agent_pooling_backward(dout, dx, {.tokens = g.tokens, .agents = g.agents});
    CHECK(dot(out, dout) == Catch::Approx(dot(x, dx)).epsilon(1e-12));
  }
}

TEMPLATE_TEST_CASE("biases are resized maps, plus one number a row and a column", "", float, double, heed::bfloat16,
                   heed::float16) {
  for (const bias_shape& s : bias_shapes)
    for (const bool queries_first : {false, true}) {
      bias_problem<TestType> p(s, queries_first);
      p.solve();
      CAPTURE(s.r, s.c, s.h, s.w, queries_first);
      CHECK(error<TestType>(p.out, p.expected()) <= 1);
    }
}

TEST_CASE("gradients of biases are the adjoint") {
  for (const bias_shape& s : bias_shapes)
    for (const bool queries_first : {false, true}) {
      bias_problem<double> p(s, queries_first);
      auto dout = p.out;
      support::fill_normal(dout.all(), p.random);
      p.solve();
      p.differentiate(dout);
      CAPTURE(s.r, s.c, s.h, s.w, queries_first);
      CHECK(dot(p.out, dout) ==
            Catch::Approx(dot(p.map, p.dmap) + dot(p.rows, p.drows) + dot(p.columns, p.dcolumns)).epsilon(1e-12));
      // Each of them: with the others zero.
      p.rows.fill(0);
      p.columns.fill(0);
      p.solve();
      CHECK(dot(p.out, dout) == Catch::Approx(dot(p.map, p.dmap)).epsilon(1e-12));
    }
}

TEMPLATE_TEST_CASE("agent_depthwise_forward adds a convolution of each feature", "", float, double, heed::bfloat16,
                   heed::float16) {
  using S = TestType;
  for (const token_grid& grid : {token_grid{1, 1}, token_grid{1, 30}, token_grid{7, 5}, token_grid{14, 14}})
    for (const index_t E : {1, 8, 33}) {
      support::random_engine random(3);
      const index_t N = grid.height * grid.width;
      const auto v = normal_tensor<S, 4>({2, 3, N, E}, random), weight = normal_tensor<S, 4>({3, E, 3, 3}, random);
      const auto bias = normal_tensor<S, 2>({3, E}, random);
      const auto before = normal_tensor<S, 4>({2, 3, N, E}, random);
      auto out = before;
      heed::agent_depthwise_forward(v, weight, bias, out, {.tokens = grid});
      auto expected = by_channel(v, grid, N, [&](const image& x, index_t h, index_t e) {
        image taps{3, 3};
        for (index_t i = 0; i < 9; ++i)
          taps.pixels[static_cast<std::size_t>(i)] = static_cast<double>(weight(h, e, i / 3, i % 3));
        return convolved(x, taps);
      });
      for (index_t i = 0; i < expected.size(); ++i)
        expected.data()[i] += static_cast<double>(before.data()[i]) + static_cast<double>(bias(i / (N * E) % 3, i % E));
      CAPTURE(grid.height, grid.width, E);
      CHECK(error<S>(out, expected) <= 1);
    }
}

TEST_CASE("agent_depthwise_backward is the adjoint, and adds to dv") {
  for (const token_grid& grid : {token_grid{1, 1}, token_grid{1, 30}, token_grid{7, 5}, token_grid{2, 2}}) {
    support::random_engine random(3);
    const index_t N = grid.height * grid.width, E = 9;
    const auto v = normal_tensor<double, 4>({2, 3, N, E}, random),
               dout = normal_tensor<double, 4>({2, 3, N, E}, random);
    const auto weight = normal_tensor<double, 4>({3, E, 3, 3}, random);
    const auto bias = normal_tensor<double, 2>({3, E}, random);
    const auto before = normal_tensor<double, 4>({2, 3, N, E}, random);
    tensor<double, 4> out({2, 3, N, E}), dv = before;
    auto dweight = blank<double>({3, E, 3, 3});
    tensor<double, 2> dbias = bias, none({3, E});
    heed::agent_depthwise_backward(v, weight, dout, dv, dweight, dbias, {.tokens = grid});
    for (index_t i = 0; i < dv.size(); ++i) dv.data()[i] -= before.data()[i];
    heed::agent_depthwise_forward(v, weight, none, out, {.tokens = grid});
    CAPTURE(grid.height, grid.width);
    CHECK(dot(out, dout) == Catch::Approx(dot(v, dv)).epsilon(1e-12));
    CHECK(dot(out, dout) == Catch::Approx(dot(weight, dweight)).epsilon(1e-12));
    double sum = 0;
    for (index_t b = 0; b < 2; ++b)
      for (index_t i = 0; i < N; ++i) sum += dout(b, 2, i, 5);
    CHECK(dbias(2, 5) == Catch::Approx(sum).epsilon(1e-12));
  }
}

TEST_CASE("what surrounds agent attention agrees with its definition on every distinct instruction set") {
  support::for_each_distinct_arch([](auto arch) {
    using A = decltype(arch);
    support::random_engine random(6);
    const auto x = normal_tensor<float, 4>({2, 3, 45, 21}, random),
               weight = normal_tensor<float, 4>({3, 21, 3, 3}, random);
    const auto bias = normal_tensor<float, 2>({3, 21}, random);
    const token_grid tokens{5, 9}, agents{3, 4};
    auto out = blank<float>({2, 3, 12, 21}), same = out;
    tensor<float, 4> conv({2, 3, 45, 21}), same_conv = conv;
    heed::detail::agent_pooling_forward_on<A, float>(x, out, {.tokens = tokens, .agents = agents});
    heed::agent_pooling_forward(x, same, {.tokens = tokens, .agents = agents});
    heed::detail::agent_depthwise_forward_on<A, float>(x, weight, bias, conv, {.tokens = tokens});
    heed::agent_depthwise_forward(x, weight, bias, same_conv, {.tokens = tokens});
    CAPTURE(A::name());
    CHECK(error<float>(out, reference::in_double(same)) <= 1);
    CHECK(error<float>(conv, reference::in_double(same_conv)) <= 1);
  });
}

TEMPLATE_TEST_CASE("strides of images change no bit, and nothing beside the tensors is read or written", "", float,
                   heed::bfloat16) {
  using S = TestType;
  support::random_engine random(7);
  const token_grid tokens{5, 9}, agents{3, 4};
  const auto x = normal_tensor<S, 4>({2, 3, 45, 21}, random), weight = normal_tensor<S, 4>({3, 21, 3, 3}, random);
  const auto dout = normal_tensor<S, 4>({2, 3, 12, 21}, random);
  const auto bias = normal_tensor<S, 2>({3, 21}, random);
  auto pooled = blank<S>({2, 3, 12, 21}), dx = blank<S>({2, 3, 45, 21});
  auto conv = x, dv = x, dweight = weight;
  auto dbias = bias;
  heed::agent_pooling_forward(x, pooled, {.tokens = tokens, .agents = agents});
  heed::agent_pooling_backward(dout, dx, {.tokens = tokens, .agents = agents});
  heed::agent_depthwise_forward(x, weight, bias, conv, {.tokens = tokens});
  heed::agent_depthwise_backward(x, weight, x, dv, dweight, dbias, {.tokens = tokens});
  for (const layout where : support::layouts) {
    CAPTURE(static_cast<int>(where));
    const auto in = laid_out(x, where), upstream = laid_out(dout, where), taps = laid_out(weight, layout::padded);
    guarded<S, 4> to_agents({2, 3, 12, 21}, where, support::quiet_nan<S>, S(-777));
    guarded<S, 4> to_tokens({2, 3, 45, 21}, where, support::quiet_nan<S>, S(-777));
    heed::agent_pooling_forward(in.all(), to_agents.all(), {.tokens = tokens, .agents = agents});
    heed::agent_pooling_backward(upstream.all(), to_tokens.all(), {.tokens = tokens, .agents = agents});
    CHECK(same_bits<S, 4>(to_agents.all(), pooled));
    CHECK(same_bits<S, 4>(to_tokens.all(), dx));
    support::copy_into<S, 4>(x, to_tokens.all());
    heed::agent_depthwise_forward(in.all(), taps.all(), bias, to_tokens.all(), {.tokens = tokens});
    CHECK(same_bits<S, 4>(to_tokens.all(), conv));
    support::copy_into<S, 4>(x, to_tokens.all());
    heed::agent_depthwise_backward(in.all(), taps.all(), in.all(), to_tokens.all(), dweight, dbias, {.tokens = tokens});
    CHECK(same_bits<S, 4>(to_tokens.all(), dv));
    CHECK(to_agents.intact());
    CHECK(to_tokens.intact());
  }
}

TEST_CASE("what surrounds agent attention is bit-equal for any executor") {
  support::random_engine random(8);
  const token_grid tokens{5, 9}, agents{3, 4};
  const auto x = normal_tensor<float, 4>({2, 3, 45, 40}, random),
             weight = normal_tensor<float, 4>({3, 40, 3, 3}, random);
  const auto bias = normal_tensor<float, 2>({3, 40}, random);
  const auto run = [&](heed::executor_ref where) {
    std::vector<tensor<float, 4>> results{tensor<float, 4>({2, 3, 12, 40}), tensor<float, 4>({2, 3, 45, 40}), x, x,
                                          weight};
    auto dbias = bias;
    heed::agent_pooling_forward(x, results[0], {.tokens = tokens, .agents = agents, .executor = where});
    heed::agent_pooling_backward(results[0], results[1], {.tokens = tokens, .agents = agents, .executor = where});
    heed::agent_depthwise_forward(x, weight, bias, results[2], {.tokens = tokens, .executor = where});
    heed::agent_depthwise_backward(x, weight, x, results[3], results[4], dbias, {.tokens = tokens, .executor = where});
    bias_problem<float> p({7, 7, 5, 9}, true);
    p.solve({.executor = where});
    p.differentiate(p.out, {.executor = where});
    results.push_back(p.out);
    results.push_back(p.dmap);
    return results;
  };
  const auto alone = run(heed::serial());
  support::for_each_executor([&](heed::executor_ref where, const char* name) {
    const auto results = run(where);
    CAPTURE(name);
    for (std::size_t i = 0; i < alone.size(); ++i) CHECK(same_bits<float, 4>(results[i], alone[i]));
  });
}

TEST_CASE("what surrounds agent attention refuses bad input before anything is written") {
  tensor<float, 4> x({1, 2, 12, 5}), small({1, 2, 4, 5}), weight({2, 5, 3, 3}), map({2, 4, 7, 7});
  tensor<float, 4> out = blank<float>({1, 2, 4, 5}), conv = blank<float>({1, 2, 12, 5}),
                   bias4 = blank<float>({1, 2, 4, 12});
  tensor<float, 3> rows({2, 4, 3}), columns({2, 4, 4});
  tensor<float, 2> bias({2, 5});
  const view<float, 4> to = out, large = conv;
  using strings = std::vector<std::string>;
  const auto pooling = [&](const strings& parts, const view<const float, 4>& from, const view<float, 4>& into,
                           const heed::agent_pooling_options& options = {}) {
    support::check_refusal("agent_pooling_forward", parts, [&] { heed::agent_pooling_forward(from, into, options); });
  };
  pooling({"out.extent(1)", "2 (H, as x)", "got 1"}, x, to.slice(1, 0, 1));
  pooling({"out.extent(3)", "5 (D, as x)", "got 4"}, x, to.slice(3, 0, 4));
  pooling({"options.tokens", "a grid of 12 tokens (N)", "got 3 x 5"}, x, to, {.tokens = token_grid{3, 5}});
  pooling({"options.agents", "a grid of 4 tokens (n)", "got 3 x 3"}, x, to, {.agents = token_grid{3, 3}});
  pooling({"options.tokens.height", "at least 1", "got -3"}, x, to, {.tokens = token_grid{-3, -4}});
  pooling({"options.tokens.width", "at least 1", "got 0"}, x.all().slice(2, 0, 0), to);
  pooling({"options.agents.width", "at least 1", "got 0"}, x, to.slice(2, 0, 0));
  pooling({"x", "a null pointer"}, view<const float, 4>(nullptr, {1, 2, 12, 5}), to);
  pooling({"out", "no overlap"}, large.slice(2, 0, 12), large.slice(2, 0, 4));
  support::check_refusal("agent_pooling_backward", {"dout.extent(3)", "5 (D, as dx)", "got 4"},
                         [&] { heed::agent_pooling_backward(small.all().slice(3, 0, 4), large); });

  const auto biases = [&](const strings& parts, const view<const float, 4>& m, const view<const float, 3>& r,
                          const view<const float, 3>& c, const view<float, 4>& into) {
    support::check_refusal("agent_bias_forward", parts, [&] { heed::agent_bias_forward(m, r, c, into); });
  };
  biases({"out.extent(3)", "12 (rows times columns)", "got 11"}, map, rows, columns, bias4.all().slice(3, 0, 11));
  biases({"out.extent(1)", "2 (H, as map)", "got 1"}, map, rows, columns, bias4.all().slice(1, 0, 1));
  biases({"rows", "2 heads and 4 agents, as map", "got 3"}, map, rows.all().slice(1, 0, 3), columns, bias4);
  biases({"columns", "2 heads and 4 agents, as map", "got 1"}, map, rows, columns.all().slice(0, 0, 1), bias4);
  biases({"map.extent(2)", "at least 1", "got 0"}, map.all().slice(2, 0, 0), rows, columns, bias4);
  biases({"out", "no overlap"}, view<const float, 4>(bias4.data(), {2, 4, 3, 3}), rows, columns, bias4);
  support::check_refusal("query_bias_forward", {"rows", "2 heads and 4 agents"},
                         [&] { heed::query_bias_forward(map, rows, columns, bias4); });
  support::check_refusal("agent_bias_backward", {"drows", "no broadcast axis"}, [&] {
    heed::agent_bias_backward(bias4, map, view<float, 3>(rows.data(), {2, 4, 3}, {0, 3, 1}), columns);
  });
  tensor<float, 3> query_rows({2, 3, 4}), query_columns({2, 4, 4});
  support::check_refusal("query_bias_backward", {"dout.extent(3)", "4 (n, as dmap)", "got 12"},
                         [&] { heed::query_bias_backward(bias4, map, query_rows, query_columns); });

  const auto convolution = [&](const strings& parts, const view<const float, 4>& v, const view<const float, 4>& w,
                               const view<const float, 2>& b, const view<float, 4>& into,
                               const heed::agent_depthwise_options& options = {}) {
    support::check_refusal("agent_depthwise_forward", parts,
                           [&] { heed::agent_depthwise_forward(v, w, b, into, options); });
  };
  convolution({"out.extent(2)", "12 (as v)", "got 11"}, x, weight, bias, large.slice(2, 0, 11));
  convolution({"weight.extent(1)", "5 (E, as v)", "got 4"}, x, weight.all().slice(1, 0, 4), bias, large);
  convolution({"weight.extent(2)", "3 (3 x 3 taps)", "got 2"}, x, weight.all().slice(2, 0, 2), bias, large);
  convolution({"bias.extent(1)", "5 (E, as v)", "got 4"}, x, weight, bias.all().slice(1, 0, 4), large);
  convolution({"options.tokens", "a grid of 12 tokens (N)", "got 5 x 2"}, x, weight, bias, large,
              {.tokens = token_grid{5, 2}});
  convolution({"out", "no overlap"}, large, weight, bias, large);
  support::check_refusal("agent_depthwise_backward", {"dweight", "no overlap"},
                         [&] { heed::agent_depthwise_backward(x, weight, x, large, weight, bias); });
  for (const tensor<float, 4>* t : {&out, &conv, &bias4})
    for (const float value : *t) CHECK(std::isnan(value));
}
