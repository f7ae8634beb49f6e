// What the files that semantic_search reads may hold: damaged weights, and text of several forms.
#include "support/catch.hpp"

#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "corpus.hpp"
#include "safetensors.hpp"

namespace {

using Catch::Matchers::ContainsSubstring;
using semantic_search::passage;
using semantic_search::safetensors;

/// A file that is gone when the test is.
class temporary_file {
 public:
  explicit temporary_file(const std::string& bytes)
      : path_(std::filesystem::temp_directory_path() / ("heed_test_" + std::to_string(::getpid()))) {
    std::ofstream(path_, std::ios::binary) << bytes;
  }
  temporary_file(const temporary_file&) = delete;
  temporary_file& operator=(const temporary_file&) = delete;
  ~temporary_file() { std::filesystem::remove(path_); }

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Pads the header as writers do, so that the data is aligned.
std::string with_header(std::string header, const std::string& data) {
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::uint64_t size = header.size();
  std::string bytes(sizeof size, '\0');
  std::memcpy(bytes.data(), &size, sizeof size);
  return bytes + header + data;
}

std::string bytes_of(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

std::string problem(const std::string& bytes) {
  const temporary_file file(bytes);
  try {
    const safetensors weights(file.path());
    return "none";
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

std::vector<passage> passages_of(const std::string& text) {
  std::vector<passage> passages;
  semantic_search::splitter lines("source", passages);
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.add_line(line);
  lines.finish_paragraph();
  return passages;
}

}  // namespace

TEST_CASE("tensors are found by name, type and shape") {
  const temporary_file file(with_header(
      R"({"__metadata__":{"format":"pt"}, "b":{"dtype":"F32","shape":[2,2],"data_offsets":[8,24]},)"
      R"("a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}, "scalar":{"dtype":"F32","shape":[],"data_offsets":[8,12]}})",
      bytes_of({0, 0, 1, 2, 3, 4})));
  const safetensors weights(file.path());
  const float* b = weights.floats("b", {2, 2});
  CHECK(std::vector<float>(b, b + 4) == std::vector<float>{1, 2, 3, 4});
  CHECK(*weights.floats("scalar", {}) == 1);
  CHECK_THROWS_WITH(weights.floats("c", {2}), ContainsSubstring("no tensor c"));
  CHECK_THROWS_WITH(weights.floats("a", {2}), ContainsSubstring("holds I32"));
  CHECK_THROWS_WITH(weights.floats("b", {4}), ContainsSubstring("shape [2, 2], expected [4]"));
}

TEST_CASE("damaged weights are refused with a reason") {
  const auto tensor = [](const std::string& fields) { return with_header(R"({"a":{)" + fields + "}}", bytes_of({1, 2})); };
  CHECK_THAT(problem(""), ContainsSubstring("shorter than the length of its header"));
  CHECK_THAT(problem(std::string(8, '\xff')), ContainsSubstring("past the end"));
  CHECK_THAT(problem(with_header("", "")), ContainsSubstring("expected {"));
  CHECK_THAT(problem(with_header(R"({"a)", "")), ContainsSubstring("expected \""));
  CHECK_THAT(problem(with_header(R"({"a\)", "")), ContainsSubstring("expected \""));
  CHECK_THAT(problem(with_header("{} x", "")), ContainsSubstring("end of the header"));
  CHECK_THAT(problem(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,12])")), ContainsSubstring("outside the file"));
  CHECK_THAT(problem(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])")), ContainsSubstring("outside the file"));
  CHECK_THAT(problem(tensor(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])")), ContainsSubstring("does not fill"));
  CHECK_THAT(problem(tensor(R"("dtype":"F31","shape":[2],"data_offsets":[0,8])")), ContainsSubstring("type F31"));
  CHECK_THAT(problem(tensor(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])")), ContainsSubstring("an integer"));
  CHECK_THAT(problem(tensor(R"("dtype":"F32","shape":[2])")), ContainsSubstring("data_offsets"));
  CHECK_THAT(problem(tensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])")),
             ContainsSubstring("larger than any file"));
  CHECK_THAT(problem(tensor(R"("dtype":"F32","shape":[9999999999999999999],"data_offsets":[0,0])")),
             ContainsSubstring("below 10^18"));
  CHECK_THAT(problem(with_header(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                                 R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", "")),
             ContainsSubstring("two tensors a"));
}

TEST_CASE("text becomes passages of whole sentences") {
  const std::vector<passage> found = passages_of(
      "A title\n\nMr. Smith came\n  home, e.g. by train. He\tslept.\n\nIn the morning he left.\n\nThe end\n");
  REQUIRE(found.size() == 2);
  CHECK(found[0].text == "A title Mr. Smith came home, e.g. by train. He slept.");
  CHECK(found[0].source == "source");
  CHECK(found[0].line == 3);
  CHECK(found[1].text == "A title In the morning he left.");
  CHECK(found[1].line == 6);
  CHECK(passages_of("").empty());
  CHECK(passages_of("one two three four five\n%\nsix seven eight nine ten").size() == 2);
}

TEST_CASE("long paragraphs are cut between sentences") {
  std::string sentence, text;
  for (int i = 0; i < 19; ++i) sentence += "word ";
  for (int i = 0; i < 7; ++i) text += "Every " + sentence + "ends. ";
  const std::vector<passage> found = passages_of(text);
  REQUIRE(found.size() == 4);
  for (const passage& p : found) CHECK(p.text.ends_with("ends."));
}
