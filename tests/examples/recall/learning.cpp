// Sequences of examples/recall against what they should be, and a small training of every mixer.
#include "support/catch.hpp"

#include <map>
#include <set>

#include "run.hpp"

using namespace recall;

TEST_CASE("recall: every question has the answer that the pairs give") {
  const vocabulary words{.keys = 9, .values = 5};
  std::mt19937 random(1);
  const examples drawn = draw(words, 6, 6, 20, random);
  REQUIRE(drawn.count == 20);
  REQUIRE(drawn.tokens.size() == 20 * 18);
  REQUIRE(drawn.questions.size() == 20 * 6);
  REQUIRE(drawn.answers.size() == drawn.questions.size());
  std::size_t question = 0;
  for (std::size_t sequence = 0; sequence < 20; ++sequence) {
    std::map<token, token> value_of;
    for (std::size_t pair = 0; pair < 6; ++pair) {
      const token key = drawn.tokens[sequence * 18 + 2 * pair], value = drawn.tokens[sequence * 18 + 2 * pair + 1];
      CHECK((key >= 0 && key < 9));
      CHECK((value >= 9 && value < 14));
      CHECK(value_of.emplace(key, value - 9).second);
    }
    std::set<token> asked;
    for (std::size_t i = 12; i < 18; ++i, ++question) {
      const token key = drawn.tokens[sequence * 18 + i];
      CHECK(drawn.questions[question] == static_cast<index_t>(sequence * 18 + i));
      REQUIRE(value_of.contains(key));
      CHECK(drawn.answers[question] == value_of[key]);
      CHECK(asked.insert(key).second);
    }
  }
}

TEST_CASE("recall: questions stand where they stand after all pairs") {
  std::mt19937 random(1);
  const examples drawn = draw({.keys = 9, .values = 5}, 2, 4, 2, random);
  CHECK(drawn.places == token_ids{0, 1, 2, 3, 8, 9, 0, 1, 2, 3, 8, 9});
  CHECK(drawn.tokens.size() == drawn.places.size());
}

TEST_CASE("recall: matrices of linear attention and GLA are no smaller than the state of GSA") {
  const settings s{.slots = 10, .features = 4};
  training::parameters<float> all(1);
  const auto size = [&](const char* mixer, const settings& settings) {
    return training::make_mixer<float>(mixer, all, shape_of(mixer, settings))->state_size(30);
  };
  CHECK(size("gsa", s) == 80);
  CHECK(size("gla", s) == 81);
  CHECK(size("linear", s) == 90);
  CHECK(size("linear", {.slots = 8, .features = 4, .features_of_keys = heed::feature_map::identity}) == 64);
  CHECK(size("softmax", s) == 240);
}

TEST_CASE("recall: every mixer learns") {
  const settings s{.pairs = 3,
                   .slots = 6,
                   .features = 8,
                   .steps = 300,
                   .report_every = 10,
                   .tokens = 288,
                   .words = {.keys = 8, .values = 4}};
  for (const char* mixer : {"softmax", "linear", "gla", "gsa"}) {
    INFO(mixer);
    std::vector<progress> course;
    const result r = train(mixer, 1, s, [&](const progress& p) { course.push_back(p); });
    REQUIRE(course.size() == 30);
    CHECK(course.back().step == s.steps);
    CHECK(course.back().pairs == s.pairs);
    CHECK(course.back().loss < 0.5 * course.front().loss);
    CHECK(r.recall == course.back().recall);
    CHECK(r.recall > 0.8);  // chance is 0.25
  }
}
