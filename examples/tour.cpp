// A walk through heed on numbers small enough to check by hand: every result stands beside the one it should be.
#include <heed/rotary.hpp>
#include <heed/softmax.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <numbers>
#include <string>
#include <tuple>
#include <vector>

namespace {

using heed::index_t;
using tensor = heed::tensor<float, 4>;  // [batch, heads, tokens, features]
using row = heed::tensor<float, 3>;     // [batch, heads, tokens]

int lines = 0, as_expected = 0;

void count(bool good) {
  std::printf("%s\n", good ? "" : "  <-- differs");
  ++lines;
  as_expected += good ? 1 : 0;
}

void expect(const char* what, const std::string& got, const std::string& expected) {
  std::printf("%-44s %-20s %-20s", what, got.c_str(), expected.c_str());
  count(got == expected);
}

std::string written(double x) {
  char number[32];
  std::snprintf(number, sizeof number, "%.5g", std::abs(x) < 1e-6 ? 0 : x);
  return number;
}

// The elements of a tensor beside the numbers they should be.
template <class T, int Rank>
void expect(const char* what, const heed::tensor<T, Rank>& got, std::initializer_list<double> expected) {
  std::string left, right;
  bool good = got.size() == static_cast<index_t>(expected.size());
  for (const T& x : got) left += written(double(x)) + " ";
  for (const double x : expected) right += written(x) + " ";
  for (index_t i = 0; good && i < got.size(); ++i) {
    const double x = double(got.data()[i]), wanted = expected.begin()[i];
    good = x == wanted || std::abs(x - wanted) <= 1e-5 * (1 + std::abs(wanted));
  }
  std::printf("%-44s %-20s %-20s", what, left.c_str(), right.c_str());
  count(good);
}

// Tokens of one feature in one head.
tensor tokens(std::initializer_list<double> values) {
  tensor t({1, 1, static_cast<index_t>(values.size()), 1});
  float* to = t.data();
  for (const double x : values) *to++ = static_cast<float>(x);
  return t;
}

// An executor of one's own: this one runs the tasks on the calling thread, last one first.
struct backwards {
  static index_t concurrency() { return 1; }
  template <class F>
  static void for_each_task(index_t n, F f) {
    while (n-- > 0) f(n, 0);
  }
};

}  // namespace

int main() {
  std::printf("%-44s %-20s %s\n", "", "got", "expected");

  // Two queries, three keys. The scores of both queries are log 1, log 2, log 3, so the keys weigh 1, 2 and 3.
  const tensor q = tokens({1, 1}), k = tokens({0, std::log(2.0), std::log(3.0)}), v = tokens({6, 12, 18});
  tensor out({1, 1, 2, 1});
  row lse({1, 1, 2});

  heed::softmax_forward(q, k, v, out);
  expect("every query sees every key", out, {(6 + 24 + 54) / 6.0, (6 + 24 + 54) / 6.0});

  heed::softmax_forward(q, k, v, out, {.lse = lse});
  expect("lse, the log of the sum of weights", lse, {std::log(6.0), std::log(6.0)});

  // Causal: the last query stands at the last key, so query 0 stands at key 1.
  heed::softmax_forward(q, k, v, out, {}, heed::causal{});
  expect("causal", out, {(6 + 24) / 3.0, (6 + 24 + 54) / 6.0});

  // The same keys, but query 0 stands at key 0.
  heed::softmax_forward(q, k, v, out, {.q_offset = 0}, heed::causal{});
  expect("causal, q_offset = 0", out, {6, (6 + 24) / 3.0});

  heed::softmax_forward(q, k, v, out, {.window_left = 1, .window_right = 0});
  expect("window: a key back, none ahead", out, {(6 + 24) / 3.0, (24 + 54) / 5.0});

  // Masks that are not among the named ones are lambdas. One with spelled types may use `if`, `?:` and tables at will.
  heed::softmax_forward(q, k, v, out, {}, [](heed::position at) { return at.kv % 2 == 0; });
  expect("mask lambda: even keys", out, {(6 + 54) / 4.0, (6 + 54) / 4.0});

  // Named masks compose with &, | and !. mask_mod makes a lambda take part.
  heed::softmax_forward(q, k, v, out, {}, heed::causal{} & !heed::mask_mod([](auto at) { return at.kv == 1; }));
  expect("composed: causal and not key 1", out, {6, (6 + 54) / 4.0});

  // Documents by position: keys 0 and 1 are document 0, key 2 is document 1.
  const std::array<std::int32_t, 3> ids = {0, 0, 1};
  heed::softmax_forward(q, k, v, out, {}, heed::causal{} & heed::document(ids));
  expect("causal within documents", out, {(6 + 24) / 3.0, 18});

  // A query that sees nothing gets zeros and an lse of -inf.
  heed::softmax_forward(q, k, v, out, {.lse = lse, .q_offset = -1}, heed::causal{});
  expect("a query before all keys", out, {0, 6});
  expect("lse of both", lse, {-INFINITY, 0});

  // Scores 0 and 1000, bounded: log 3 tanh(1000 / log 3) = log 3.
  tensor one({1, 1, 1, 1});
  heed::softmax_forward(tokens({1}), tokens({0, 1000}), tokens({4, 8}), one, {.softcap = std::log(3.0)});
  expect("softcap log 3", one, {(4 + 3 * 8) / 4.0});

  // A generic score mod is called with vectors of queries: no `if` there, but full speed. Here the weight halves with
  // every step back: 1/4, 1/2, 1.
  const double slope = std::log(2.0);
  heed::softmax_forward(tokens({0}), tokens({0, 0, 0}), tokens({7, 14, 21}), one, {},
                        [slope](auto s, auto at) { return s - slope * heed::to_real(s, at.q - at.kv); });
  expect("ALiBi lambda: weights halve with distance", one, {(7 / 4.0 + 14 / 2.0 + 21) / 1.75});

  // Added to the scores, broadcast over batch, heads and queries; -inf excludes.
  tensor bias({1, 1, 1, 3});
  bias(0, 0, 0, 0) = -INFINITY;
  heed::softmax_forward(q, k, v, out, {.bias = bias});
  expect("bias of -inf on key 0", out, {(24 + 54) / 5.0, (24 + 54) / 5.0});

  // A sink takes a share of the weight and gives no value for it.
  const auto sink = heed::tensor<float, 1>::full({1}, std::log(6.0f));
  heed::softmax_forward(q, k, v, out, {.sink = sink, .lse = lse});
  expect("sink of weight 6", out, {84 / 12.0, 84 / 12.0});
  expect("lse, sink included", lse, {std::log(12.0), std::log(12.0)});

  // Four query heads over two key heads: heads 0 and 1 read the first, 2 and 3 the second.
  tensor wide_q({1, 4, 1, 1}), wide_k({1, 2, 3, 1}), wide_v({1, 2, 3, 1}), wide_out({1, 4, 1, 1});
  wide_q.fill(1);
  for (int g = 0; g < 2; ++g)
    for (int j = 0; j < 3; ++j) {
      wide_k(0, g, j, 0) = k(0, 0, j, 0);
      wide_v(0, g, j, 0) = (g == 0 ? 1 : 10) * v(0, 0, j, 0);
    }
  heed::softmax_forward(wide_q, wide_k, wide_v, wide_out);
  expect("grouped heads: 4 over 2", wide_out, {14, 14, 140, 140});

  // A packed batch: sequence 0 owns query 0 and keys 0, 1; sequence 1 owns query 1 and key 2.
  const std::vector<int> cu_q = {0, 1, 2}, cu_k = {0, 2, 3};
  heed::softmax_forward(q, k, v, out, {.cu_seqlens_q = cu_q, .cu_seqlens_k = cu_k}, heed::causal{});
  expect("packed batch of two sequences", out, {(6 + 24) / 3.0, 18});

  // Attention over keys 0, 1 and over key 2, each on its own; then one merge gives attention over all three.
  tensor late({1, 1, 2, 1});
  row late_lse({1, 1, 2});
  heed::softmax_forward(q, k.all().slice(2, 0, 2), v.all().slice(2, 0, 2), out, {.lse = lse});
  heed::softmax_forward(q, k.all().slice(2, 2, 3), v.all().slice(2, 2, 3), late, {.lse = late_lse});
  heed::softmax_merge(out, lse, late, late_lse, out, lse);
  expect("merged: keys 0, 1 and key 2", out, {14, 14});
  expect("merged lse", lse, {std::log(6.0), std::log(6.0)});

  // Segments: sets of keys in one call, each with its mask. The prefix key weighs 1, times 3.
  const tensor prefix_k = tokens({0}), prefix_v = tokens({20});
  const auto log_3 = heed::tensor<float, 1>::full({1}, std::log(3.0f));
  const heed::softmax_segment<float, heed::causal> own{k, v};
  const heed::softmax_segment<float> prefix{prefix_k, prefix_v, {.log_weight = log_3}};
  heed::softmax_segments_forward(q, std::tuple{prefix, own}, out);
  expect("prefix of weight 3, then causal", out, {(3 * 20 + 6 + 24) / 6.0, (3 * 20 + 6 + 24 + 54) / 9.0});

  // Blended instead: a softmax for each segment, added with given factors.
  const std::array blended = {heed::softmax_segment<float>{prefix_k, prefix_v, {.blend = 0.25}},
                              heed::softmax_segment<float>{k, v, {.blend = 0.75}}};
  heed::softmax_segments_forward(q, blended, out);
  expect("blend: 1/4 prefix, 3/4 keys", out, {20 / 4.0 + 0.75 * 14, 20 / 4.0 + 0.75 * 14});

  // Rotary positions: token i turns by i quarters of a circle, in place.
  tensor pair({1, 1, 3, 2});
  for (int i = 0; i < 3; ++i) pair(0, 0, i, 0) = 1;
  heed::rotary_forward(pair, heed::rotary_positions::counting_from(0), pair, {.position_scale = std::numbers::pi / 2});
  expect("rotary: (1, 0) by 0, 1, 2 quarter turns", pair, {1, 0, 0, 1, -1, 0});

  // 16-bit tensors: sums are float, the result is rounded once.
  heed::tensor<heed::bfloat16, 4> short_q({1, 1, 1, 8}), short_k({1, 1, 3, 8}), short_v({1, 1, 3, 1}),
      short_out({1, 1, 1, 1});
  short_v(0, 0, 0, 0) = heed::bfloat16(1);
  heed::softmax_forward(short_q, short_k, short_v, short_out);
  expect("bfloat16: a third", short_out, {double(heed::bfloat16(1 / 3.0))});

  // What does not fit is refused before anything is written.
  try {
    heed::softmax_forward(q, tensor({1, 1, 3, 2}), v, out);
  } catch (const heed::invalid_argument& error) {
    std::printf("%s", error.what());
    count(error.what() == std::string("heed::softmax_forward: k.extent(3): expected 1 (D, as q), got 2"));
  }

  // Memory and threads of the caller's: the call allocates nothing, and the result is the same to the last bit.
  tensor many_q({2, 3, 500, 40}), many_out({2, 3, 500, 40}), same({2, 3, 500, 40});
  for (index_t i = 0; i < many_q.size(); ++i) many_q.data()[i] = std::sin(0.1f * static_cast<float>(i));
  heed::softmax_forward(many_q, many_q, many_q, many_out, {}, heed::causal{});
  backwards pool;
  heed::softmax_options<float> options{.executor = heed::executor(pool)};
  std::vector<std::byte> memory(static_cast<std::size_t>(heed::softmax_forward_scratch_bytes<float>(40, 40, options)));
  options.scratch = {memory.data(), static_cast<index_t>(memory.size())};
  heed::softmax_forward(many_q, many_q, many_q, same, options, heed::causal{});
  const bool equal =
      std::memcmp(many_out.data(), same.data(), sizeof(float) * static_cast<std::size_t>(same.size())) == 0;
  expect("own scratch and executor: bit-equal", equal ? "yes" : "no", "yes");

  if (as_expected == lines)
    std::printf("\nall %d as expected\n", lines);
  else
    std::printf("\n%d of %d differ\n", lines - as_expected, lines);
  return as_expected == lines ? 0 : 1;
}
