/// Text files to passages: a few whole sentences each, with the place they come from.
#pragma once

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace semantic_search {

struct passage {
  std::string text, source;
  std::size_t line = 0;  // where its paragraph begins, from 1
};

/// Splits one text. Paragraphs end at an empty line or at a line `%` (as in collections of fortunes); long ones are cut
/// between sentences, after about sixty words. A paragraph of at most four words is taken for a heading: it says what the
/// passages down to the next heading are about and goes in front of each.
class splitter {
 public:
  splitter(std::string source, std::vector<passage>& passages) : source_(std::move(source)), passages_(passages) {}

  void add_line(std::string_view line) {
    ++line_;
    std::vector<std::string> words = split(line);
    if (words.empty() || line == "%") {
      finish_paragraph();
      return;
    }
    if (paragraph_.empty()) begin_ = line_;
    std::move(words.begin(), words.end(), std::back_inserter(paragraph_));
  }

  void finish_paragraph() {
    if (paragraph_.size() > heading_words) {
      std::size_t first = 0, last = 0;
      while (first < paragraph_.size()) {
        do {
          last = sentence_end(last);
        } while (last < paragraph_.size() && sentence_end(last) - first <= passage_words);
        emit(first, last);
        first = last;
      }
    } else if (!paragraph_.empty()) {
      heading_ = join(0, paragraph_.size());
    }
    paragraph_.clear();
  }

 private:
  static constexpr std::size_t heading_words = 4, passage_words = 60;

  static std::vector<std::string> split(std::string_view line) {
    std::vector<std::string> words;
    constexpr std::string_view spaces = " \t\r\f\v";
    for (std::size_t first = line.find_first_not_of(spaces); first != std::string_view::npos;) {
      const std::size_t last = std::min(line.size(), line.find_first_of(spaces, first));
      words.emplace_back(line.substr(first, last - first));
      first = line.find_first_not_of(spaces, last);
    }
    return words;
  }

  /// One past the last word of the sentence that begins at a word.
  std::size_t sentence_end(std::size_t word) const {
    while (++word < paragraph_.size()) {
      if (ends_sentence(paragraph_[word - 1]) && begins_sentence(paragraph_[word])) break;
    }
    return std::min(word, paragraph_.size());
  }

  static bool ends_sentence(std::string_view word) {
    while (!word.empty() && std::string_view("\"')]}").find(word.back()) != std::string_view::npos) word.remove_suffix(1);
    for (const std::string_view quote : {"”", "’", "»"}) {
      if (word.ends_with(quote)) word.remove_suffix(quote.size());
    }
    if (word.ends_with('!') || word.ends_with('?')) return true;
    if (!word.ends_with('.')) return false;
    // "Mr.", "W.", "e.g." and the like end no sentence.
    const std::string_view stem = word.substr(0, word.size() - 1);
    const bool title = stem.size() <= 3 && !stem.empty() && std::isupper(static_cast<unsigned char>(stem[0])) != 0;
    return !title && stem.find('.') == std::string_view::npos;
  }

  static bool begins_sentence(std::string_view word) { return std::islower(static_cast<unsigned char>(word[0])) == 0; }

  std::string join(std::size_t first, std::size_t last) const {
    std::string text;
    for (std::size_t i = first; i < last; ++i) text += (i == first ? "" : " ") + paragraph_[i];
    return text;
  }

  void emit(std::size_t first, std::size_t last) {
    passages_.push_back({(heading_.empty() ? "" : heading_ + " ") + join(first, last), source_, begin_});
  }

  std::string source_;
  std::vector<passage>& passages_;
  std::vector<std::string> paragraph_;
  std::string heading_;
  std::size_t line_ = 0, begin_ = 0;
};

inline void read_text(const std::filesystem::path& file, std::vector<passage>& passages) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + file.string());
  splitter text(file.filename().string(), passages);
  for (std::string line; std::getline(in, line);) {
    if (line.find('\0') != std::string::npos) throw std::runtime_error(file.string() + " is not a text file");
    text.add_line(line);
  }
  text.finish_paragraph();
}

/// The passages of a text file, or of every .txt and .md file below a folder, in the order of their paths.
inline void read_corpus(const std::filesystem::path& path, std::vector<passage>& passages) {
  if (!std::filesystem::is_directory(path)) {
    read_text(path, passages);
    return;
  }
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    const std::filesystem::path extension = entry.path().extension();
    if (entry.is_regular_file() && (extension == ".txt" || extension == ".md")) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) throw std::runtime_error(path.string() + " has no .txt or .md files");
  for (const std::filesystem::path& file : files) read_text(file, passages);
}

}  // namespace semantic_search
