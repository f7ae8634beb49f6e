// Texts of examples/generate against the rule that its weights are made for, and against themselves without caches.
#include "support/catch.hpp"
#include "support/random.hpp"

#include <cctype>
#include <string>
#include <vector>

#include "copying.hpp"
#include "recompute.hpp"
#include "server.hpp"

namespace {

using namespace generate;

/// What the copying decoder writes next, by its rule. A text is preceded by boundaries.
char next_of(const std::string& text) {
  const auto lower = [&](std::ptrdiff_t i) {
    return i < 0 ? '^' : static_cast<char>(std::tolower(text[static_cast<std::size_t>(i)]));
  };
  const std::ptrdiff_t end = std::ssize(text);
  int longest = -1;
  char best = '^';
  for (std::ptrdiff_t t = -1; t < end; ++t) {
    int match = 0;
    for (index_t n = 0; n < reach; ++n) match = 2 * match + (lower(t - 1 - n) == lower(end - 1 - n));
    if (match < longest) continue;
    longest = match;
    best = lower(t);
  }
  const bool begins = end >= 2 && text.back() == ' ' && std::string(".?!").find(text[text.size() - 2]) < 3;
  return begins ? static_cast<char>(std::toupper(best)) : best;
}

std::string rest_of(std::string text, index_t most_tokens) {
  const std::size_t prompt = text.size();
  while (static_cast<index_t>(text.size()) + 1 < most_tokens) {
    const char c = next_of(text);
    if (c == '^') break;
    text += c;
    if (c == '.') break;
  }
  return text.substr(prompt);
}

/// Sentences of a few words that occur again and again, cut anywhere.
std::vector<std::string> random_prompts(support::random_engine& random) {
  const std::string words[] = {"a", "the", "cat", "mat", "sat", "on", "all", "fall", "tall", "eel", "hall"};
  std::string story;
  for (int sentence = 0; sentence < 3; ++sentence) {
    for (index_t word = 0, count = support::draw(random, 2, 5); word < count; ++word)
      story += (word > 0 ? " " : "") + words[support::draw(random, 0, 10)];
    story += support::draw(random, 0, 3) == 0 ? "? " : ". ";
  }
  story[0] = static_cast<char>(std::toupper(story[0]));
  std::vector<std::string> prompts;
  for (int i = 0; i < 7; ++i) {
    std::string prompt = story.substr(0, static_cast<std::size_t>(support::draw(random, 4, std::ssize(story))));
    for (index_t word = support::draw(random, 0, 3); word-- > 0;) prompt += words[support::draw(random, 0, 10)] + " ";
    prompts.push_back(prompt);
  }
  return prompts;
}

template <class Rows>
void serve_random_prompts(unsigned seed) {
  support::random_engine random(seed);
  const index_t page_sizes[] = {1, 3, 16, 64};
  const server_settings settings{support::draw(random, 1, 5), page_sizes[support::draw(random, 0, 3)], 120};
  const std::vector<std::string> prompts = random_prompts(random);
  const decoder model = copying_decoder();
  server<Rows> serving(model, settings);
  std::vector<token_ids> tokens;
  for (const std::string& prompt : prompts) tokens.push_back(encode(prompt));
  const auto texts = serving.serve(tokens);

  CAPTURE(seed, settings.slots, settings.page_size);
  agreement check;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    CAPTURE(prompts[i]);
    CHECK(decode(texts[i].tokens) == prompts[i] + rest_of(prompts[i], settings.most_tokens));
    recompute(model, texts[i], check);
  }
  CHECK(check.good());
  CHECK(serving.pages_in_use() == 0);
}

}  // namespace

TEMPLATE_TEST_CASE("served texts go on by the rule of the weights, and are the same without caches", "", float,
                   heed::bfloat16, heed::int8_rows) {
  for (unsigned seed = 1; seed <= 12; ++seed) serve_random_prompts<TestType>(seed);
}

TEST_CASE("prompts with a common beginning share its pages") {
  const std::string verse = "the cat sat on the mat. ";
  const decoder model = copying_decoder();
  server<float> serving(model, {.slots = 3, .page_size = 4});
  const auto texts = serving.serve({encode(verse + "the c"), encode(verse + "the m"), encode(verse + "the c")});
  CHECK(texts[0].shared == 0);
  CHECK(texts[1].shared == 1 + std::ssize(verse) + 4);
  // The last token of a prompt is read anyhow.
  CHECK(texts[2].shared == 1 + std::ssize(verse) + 4);
  CHECK(decode(texts[0].tokens) == verse + "the cat sat on the mat.");
  CHECK(texts[2].tokens == texts[0].tokens);
  // Seven full pages in common, and one or two of each text's own.
  CHECK(serving.cost().most_pages < 3 * 10);
}
