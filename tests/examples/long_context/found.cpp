// What examples/long_context hides and finds, over threads.
#include "support/catch.hpp"

#include <heed/core/in_process.hpp>

#include <string>
#include <vector>

#include "search.hpp"

namespace {

using namespace long_context;

std::vector<outcome> search_on_threads(const settings& s, int ranks) {
  std::vector<outcome> outcomes(static_cast<std::size_t>(ranks));
  heed::in_process_group group(ranks, 60);
  group.run([&](heed::in_process_transport& own) {
    outcomes[static_cast<std::size_t>(own.rank())] = search(own, s, heed::serial(), [](int) {});
  });
  return outcomes;
}

}  // namespace

TEST_CASE("needles are found wherever they lie, whoever holds them") {
  for (const std::string layout : {"zigzag", "striped", "contiguous"})
    for (const int ranks : {1, 3}) {
      const settings s{.tokens = 1500, .layout = layout};
      for (const outcome& o : search_on_threads(s, ranks)) {
        CAPTURE(layout, ranks, o.answers[0].text);
        CHECK(all_right(o));
        for (const answer& a : o.answers) CHECK(a.within_reach);
        // Keys and values of a third of the tokens, in each step but the last.
        CHECK(o.bytes_sent == (ranks - 1) * 2 * heads * 500 * features * 4);
      }
    }
}

TEST_CASE("needles lie apart, all of them before the questions") {
  for (const index_t tokens : {1024, 1500, 1 << 20}) {
    const haystack hay(tokens);
    for (index_t n = 0; n < needle_count; ++n) {
      CHECK(hay.place(n) >= (n == 0 ? 0 : hay.place(n - 1) + 1));
      CHECK(hay.place(n) < hay.question(0));
    }
  }
}

TEST_CASE("a window hides what lies outside of it") {
  const settings s{.tokens = 1500, .window = 600};
  for (const outcome& o : search_on_threads(s, 2)) {
    CHECK(all_right(o));
    CHECK_FALSE(o.answers[0].within_reach);
    CHECK(o.answers[0].text != needles[0]);
    CHECK(o.answers.back().within_reach);
  }
}

TEST_CASE("a wrong answer is seen") {
  outcome o = search_on_threads({.tokens = 1500}, 1)[0];
  o.answers[3].text[2] = '?';
  CHECK_FALSE(all_right(o));
}
