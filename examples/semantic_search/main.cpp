// Finds the passages of a text corpus whose meaning is closest to a question.
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <iostream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "arguments.hpp"
#include "corpus.hpp"
#include "minilm.hpp"

namespace {

using command_line::for_each_option;
using command_line::number;
using command_line::usage_error;
using semantic_search::matrix;
using semantic_search::minilm;
using semantic_search::passage;

constexpr const char* usage = R"(usage: semantic_search [option]...

Embeds the passages of a text corpus with all-MiniLM-L6-v2 and prints those closest in meaning to each query.

  --model DIR       folder with model.safetensors and vocab.txt (default: build/models/all-MiniLM-L6-v2)
  --corpus PATH     a text file, or a folder whose .txt and .md files are read; may be given several times
                    (default: build/corpus/jargon.txt)
  --query TEXT      what to look for; may be given several times (default: each line of the standard input)
  --top K           how many passages to print for each query (default: 3)
  --batch TOKENS    how many tokens go through the model at once (default: 1024)
  --help            print this

OMP_NUM_THREADS sets the number of threads.
)";

struct settings {
  std::filesystem::path model = "build/models/all-MiniLM-L6-v2";
  std::vector<std::filesystem::path> corpus;
  std::vector<std::string> queries;
  std::int64_t top = 3, batch = 1024;
  bool help = false;
};

settings read_arguments(int count, char** arguments) {
  settings s;
  for_each_option(count, arguments, [&](std::string_view option, const auto& value) {
    if (option == "--model") {
      s.model = value();
    } else if (option == "--corpus") {
      s.corpus.emplace_back(value());
    } else if (option == "--query") {
      s.queries.push_back(value());
    } else if (option == "--top") {
      s.top = number<std::int64_t>(option, value(), 1, 1'000'000);
    } else if (option == "--batch") {
      s.batch = number<std::int64_t>(option, value(), 1, 1'000'000);
    } else if (option == "--help" || option == "-h") {
      s.help = true;
    } else {
      throw usage_error("unknown option '" + std::string(option) + "'");
    }
  });
  if (s.corpus.empty()) s.corpus.emplace_back("build/corpus/jargon.txt");
  return s;
}

void require_files(const settings& s) {
  for (const char* name : {"model.safetensors", "vocab.txt"}) {
    if (!std::filesystem::exists(s.model / name)) {
      throw std::runtime_error("there is no " + (s.model / name).string() +
                               "; get the model with examples/semantic_search/fetch_model.sh " + s.model.string());
    }
  }
  for (const std::filesystem::path& path : s.corpus) {
    if (!std::filesystem::exists(path)) {
      throw std::runtime_error("there is no " + path.string() +
                               "; give a text file or folder with --corpus, or get the default one with "
                               "examples/semantic_search/fetch_corpus.sh");
    }
  }
}

/// How far the indexing is: a line that is redrawn on a terminal, else a line for each quarter.
class progress {
 public:
  progress(const minilm& model, std::size_t passages) : model_(model), passages_(passages) {}

  void operator()(std::size_t done) {
    const std::size_t quarter = 4 * done / passages_;
    if (!terminal_ && quarter == quarter_) return;
    quarter_ = quarter;
    const minilm::cost& spent = model_.spent();
    std::fprintf(stderr, "%sembedded %zu of %zu passages, %.0f tokens/s%s", terminal_ ? "\r" : "", done, passages_,
                 static_cast<double>(spent.tokens) / spent.total.count(),
                 terminal_ && done < passages_ ? "\x1b[K" : "\n");
  }

 private:
  const minilm& model_;
  std::size_t passages_, quarter_ = 0;
  bool terminal_ = ::isatty(STDERR_FILENO) != 0;
};

matrix embed_corpus(minilm& model, const std::vector<passage>& passages, std::int64_t batch) {
  std::vector<semantic_search::token_ids> sentences;
  sentences.reserve(passages.size());
  for (const passage& p : passages) sentences.push_back(model.tokenize(p.text));
  matrix index = model.embed(sentences, batch, progress(model, passages.size()));
  const minilm::cost& spent = model.spent();
  std::fprintf(stderr, "%lld tokens in %.2f s: %.0f tokens/s, %.1f %% of the time in attention\n",
               static_cast<long long>(spent.tokens), spent.total.count(),
               static_cast<double>(spent.tokens) / spent.total.count(),
               100 * spent.attention.count() / spent.total.count());
  return index;
}

void print_wrapped(std::string_view text) {
  constexpr std::size_t width = 100;
  while (!text.empty()) {
    std::size_t cut = text.size();
    if (cut > width) {
      cut = text.rfind(' ', width);
      if (cut == std::string_view::npos) cut = std::min(text.size(), text.find(' '));
    }
    std::cout << "       " << text.substr(0, cut) << '\n';
    text.remove_prefix(std::min(text.size(), cut + 1));
  }
}

void answer(const std::string& query, minilm& model, const matrix& index, const std::vector<passage>& passages,
            std::int64_t top) {
  const Eigen::VectorXf scores = index * model.embed({model.tokenize(query)}).row(0).transpose();
  std::vector<std::size_t> order(passages.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto kept = order.begin() + std::min<std::int64_t>(top, std::ssize(order));
  const auto score = [&](std::size_t i) { return scores[static_cast<Eigen::Index>(i)]; };
  std::partial_sort(order.begin(), kept, order.end(),
                    [&](std::size_t a, std::size_t b) { return score(a) > score(b); });

  std::cout << "\n" << query << "\n";
  for (auto i = order.begin(); i != kept; ++i) {
    char number[16];
    std::snprintf(number, sizeof number, "%6.3f", static_cast<double>(score(*i)));
    std::cout << number << " " << passages[*i].source << ":" << passages[*i].line << '\n';
    print_wrapped(passages[*i].text);
  }
  std::cout << std::flush;
}

void run(const settings& s) {
  require_files(s);
  minilm model(s.model);
  std::vector<passage> passages;
  for (const std::filesystem::path& path : s.corpus) semantic_search::read_corpus(path, passages);
  if (passages.empty()) throw std::runtime_error("the corpus has no paragraph of more than four words");
  const matrix index = embed_corpus(model, passages, s.batch);

  for (const std::string& query : s.queries) answer(query, model, index, passages, s.top);
  if (!s.queries.empty()) return;
  const bool interactive = ::isatty(STDIN_FILENO) != 0;
  for (std::string line;;) {
    if (interactive) std::cout << "\nquery (end with Ctrl-D): " << std::flush;
    if (!std::getline(std::cin, line)) break;
    if (line.find_first_not_of(" \t\r") != std::string::npos) answer(line, model, index, passages, s.top);
  }
  if (interactive) std::cout << '\n';
}

}  // namespace

int main(int count, char** arguments) {
  try {
    const settings s = read_arguments(count, arguments);
    if (s.help) {
      std::cout << usage;
    } else {
      run(s);
    }
    return 0;
  } catch (const usage_error& error) {
    std::cerr << "semantic_search: " << error.what() << "; see semantic_search --help\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "semantic_search: " << error.what() << '\n';
    return 1;
  }
}
