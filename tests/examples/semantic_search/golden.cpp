// The tokens and embeddings of all-MiniLM-L6-v2 against those of its reference implementation, recorded in golden.txt.
#include "support/catch.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "minilm.hpp"

namespace {

using semantic_search::matrix;
using semantic_search::minilm;
using semantic_search::token_ids;

struct golden_case {
  std::string text;
  token_ids ids;
  std::vector<float> vector;  // empty: the case is about tokens alone
};

std::string unescape(const std::string& written) {
  std::string text;
  for (std::size_t i = 0; i < written.size(); ++i) {
    if (written[i] != '\\') {
      text += written[i];
      continue;
    }
    switch (written.at(++i)) {
      case 'n': text += '\n'; break;
      case 't': text += '\t'; break;
      case 'x':
        text += static_cast<char>(std::stoi(written.substr(i + 1, 2), nullptr, 16));
        i += 2;
        break;
      default: text += written[i];
    }
  }
  return text;
}

template <class T>
std::vector<T> numbers(const std::string& line) {
  std::istringstream in(line);
  return {std::istream_iterator<T>(in), {}};
}

std::vector<golden_case> read_golden() {
  std::ifstream file(HEED_GOLDEN_FILE);
  if (!file) throw std::runtime_error("cannot read " HEED_GOLDEN_FILE);
  std::vector<golden_case> cases;
  for (std::string line; std::getline(file, line);) {
    const std::string kind = line.substr(0, line.find(' '));
    const std::string rest = line.substr(std::min(line.size(), kind.size() + 1));
    if (kind == "text") cases.push_back({unescape(rest), {}, {}});
    if (kind == "ids") cases.back().ids = numbers<std::int32_t>(rest);
    if (kind == "vector") cases.back().vector = numbers<float>(rest);
  }
  return cases;
}

const std::vector<golden_case>& all_cases() {
  static const std::vector<golden_case> cases = read_golden();
  return cases;
}

std::vector<golden_case> embedded_cases() {
  std::vector<golden_case> cases = all_cases();
  std::erase_if(cases, [](const golden_case& c) { return c.vector.empty(); });
  return cases;
}

minilm& model() {
  static minilm loaded = [] {
    const char* folder = std::getenv("HEED_MINILM_DIR");
    if (folder == nullptr) {
      throw std::runtime_error(
          "HEED_MINILM_DIR must name the folder of all-MiniLM-L6-v2; "
          "examples/semantic_search/fetch_model.sh FOLDER puts the model there");
    }
    return minilm(folder);
  }();
  return loaded;
}

matrix embed(const std::vector<golden_case>& cases, std::int64_t batch_tokens) {
  std::vector<token_ids> sentences;
  for (const golden_case& c : cases) sentences.push_back(c.ids);
  return model().embed(sentences, batch_tokens);
}

float largest_difference(const matrix& a, const matrix& b) { return (a - b).cwiseAbs().maxCoeff(); }

}  // namespace

TEST_CASE("tokens equal those of the reference tokenizer") {
  REQUIRE(all_cases().size() >= 25);
  for (const golden_case& c : all_cases()) {
    INFO(c.text);
    CHECK(model().tokenize(c.text) == c.ids);
  }
}

TEST_CASE("long sentences are cut to 256 tokens") {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "word ";
  const token_ids ids = model().tokenize(text);
  CHECK(ids.size() == 256);
  CHECK(ids.front() == 101);
  CHECK(ids.back() == 102);
}

TEST_CASE("malformed UTF-8 is dropped") {
  for (const std::string bad : {"\x80", "\xc0\xaf", "\xe2\x82", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff"}) {
    CHECK(model().tokenize("one" + bad + "two") == model().tokenize("onetwo"));
    CHECK(model().tokenize("one" + bad) == model().tokenize("one"));
  }
}

TEST_CASE("embeddings equal those of the reference") {
  const std::vector<golden_case> cases = embedded_cases();
  REQUIRE(cases.size() >= 12);
  const matrix vectors = embed(cases, 1024);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    INFO(cases[i].text);
    REQUIRE(cases[i].vector.size() == static_cast<std::size_t>(minilm::hidden));
    const semantic_search::row_view expected(cases[i].vector.data(), minilm::hidden);
    const auto actual = vectors.row(static_cast<Eigen::Index>(i));
    CHECK(actual.dot(expected) / (actual.norm() * expected.norm()) >= 0.9999f);
    CHECK((actual - expected).cwiseAbs().maxCoeff() <= 2e-4f);
    CHECK(std::abs(actual.norm() - 1) <= 1e-5f);
  }
}

TEST_CASE("an embedding does not depend on what else is in its batch") {
  std::vector<golden_case> cases = embedded_cases();
  const matrix together = embed(cases, 4096);
  CHECK(largest_difference(together, embed(cases, 1)) <= 1e-5f);
  CHECK(largest_difference(together, embed(cases, 300)) <= 1e-5f);

  std::reverse(cases.begin(), cases.end());
  CHECK(largest_difference(together, embed(cases, 4096).colwise().reverse()) <= 1e-5f);
}

TEST_CASE("no sentences give no embeddings") { CHECK(embed({}, 1024).rows() == 0); }

TEST_CASE("similar sentences are closer than unrelated ones") {
  const matrix vectors = model().embed({model().tokenize("A man is eating food."), model().tokenize("Someone is having a meal."),
                                        model().tokenize("The stock market fell sharply today.")});
  CHECK(vectors.row(0).dot(vectors.row(1)) > 0.6f);
  CHECK(vectors.row(0).dot(vectors.row(2)) < 0.2f);
}
