/// Exact attention over a haystack that is spread over ranks, and what the questions at its end find.
#pragma once

#include <heed/ops/ring/forward.hpp>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "haystack.hpp"
#include "metered.hpp"

namespace long_context {

struct settings {
  index_t tokens = 65536;
  std::string layout = "zigzag";
  index_t window = 0;  // tokens that a query looks back; 0: all
};

inline heed::token_layout layout_of(const settings& s, int ranks) {
  if (s.layout == "contiguous") return heed::contiguous_layout(s.tokens, ranks);
  if (s.layout == "striped") return heed::striped_layout(s.tokens, ranks);
  return heed::zigzag_layout(s.tokens, ranks);
}

/// Pairs of a query and a key that it sees.
inline double visible_pairs(const settings& s) {
  double pairs = 0;
  for (index_t i = 0; i < s.tokens; ++i) pairs += static_cast<double>(s.window > 0 ? std::min(i, s.window) + 1 : i + 1);
  return pairs;
}

struct answer {
  std::string text;
  bool within_reach;  // of the window
};

/// Of one rank; answers are the same on all.
struct outcome {
  std::vector<answer> answers;
  double seconds = 0, seconds_waited = 0;
  index_t bytes_held = 0, bytes_of_scratch = 0, bytes_sent = 0;
};

/// All ranks call this. report(messages) is called on each before it sends one.
template <heed::transport Ranks>
outcome search(Ranks& plain_ranks, const settings& s, const heed::executor_ref& executor,
               const std::function<void(int)>& report) {
  int messages = 0;
  metered ranks(plain_ranks, [&] { report(++messages); });
  const heed::token_layout layout = layout_of(s, ranks.size());
  const index_t n = layout.count(ranks.rank());
  heed::tensor<float, 4> q({1, heads, n, features}), k({1, heads, n, features}), v({1, heads, n, features}),
      out({1, heads, n, features});
  const haystack hay(s.tokens);
  hay.deal(layout, ranks.rank(), q, k, v);

  heed::ring_options<float> options;
  options.layout = layout;
  options.window_left = s.window > 0 ? s.window : -1;
  options.window_right = 0;
  options.executor = executor;
  outcome result;
  result.bytes_of_scratch = heed::ring_forward_scratch_bytes<float>(ranks, q, k, v, options);
  heed::tensor<std::byte, 1> scratch({result.bytes_of_scratch});
  options.scratch = {scratch.data(), scratch.size()};

  ranks.barrier();
  const auto start = std::chrono::steady_clock::now();
  heed::ring_forward(ranks, q, k, v, out, options);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.seconds_waited = ranks.seconds_waited();
  result.bytes_sent = ranks.bytes_sent();
  result.bytes_held = 4 * out.size() * static_cast<index_t>(sizeof(float));

  // Whoever has a question's row adds it to zeros.
  heed::tensor<double, 1> answers({needle_count * heads * features});
  std::fill(answers.begin(), answers.end(), 0.0);
  for (index_t row = 0; row < n; ++row) {
    const index_t asked = layout.token(ranks.rank(), row) - hay.question(0);
    for (index_t h = 0; asked >= 0 && h < heads; ++h)
      for (index_t d = 0; d < features; ++d) answers((asked * heads + h) * features + d) = out(0, h, row, d);
  }
  ranks.allreduce_sum(answers.all());
  for (index_t i = 0; i < needle_count; ++i) {
    const heed::view<const double, 1> all = answers.all();
    result.answers.push_back({read_answer(all.slice(0, i * heads * features, (i + 1) * heads * features)),
                              s.window == 0 || hay.question(i) - hay.place(i) <= s.window});
  }
  return result;
}

/// Whether the needles within reach were found, and no others.
inline bool all_right(const outcome& o) {
  bool right = true;
  for (std::size_t i = 0; i < needles.size(); ++i)
    right = right && (o.answers[i].text == needles[i]) == o.answers[i].within_reach;
  return right;
}

}  // namespace long_context
