/// The tokenizer of BERT uncased: text to the numbers of WordPiece tokens.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "unicode_table.hpp"

namespace semantic_search {

using token_ids = std::vector<std::int32_t>;

namespace unicode {

/// Takes the first code point off a UTF-8 text. A byte that begins no well-formed code point gives U+FFFD.
inline char32_t take(std::string_view& text) {
  constexpr char32_t replacement = 0xfffd;
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const std::size_t length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
  char32_t point = length < 2 ? lead : lead & (0x7fu >> length);
  bool valid = length > 0 && length <= text.size();
  for (std::size_t i = 1; valid && i < length; ++i) {
    valid = (byte(i) & 0xc0) == 0x80;
    point = point << 6 | (byte(i) & 0x3fu);
  }
  // Longer forms of shorter code points, surrogates and what lies past the last code point are malformed too.
  if (length == 3) valid = valid && point >= 0x800 && (point < 0xd800 || point > 0xdfff);
  if (length == 4) valid = valid && point >= 0x10000 && point <= 0x10ffff;
  text.remove_prefix(valid ? length : 1);
  return valid ? point : replacement;
}

inline void append(std::string& text, char32_t point) {
  const auto put = [&](char32_t byte) { text += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (point < 0x80) {
    put(point);
  } else if (point < 0x800) {
    put(0xc0 | point >> 6);
    put(0x80 | (point & 0x3f));
  } else if (point < 0x10000) {
    put(0xe0 | point >> 12);
    put(0x80 | (point >> 6 & 0x3f));
    put(0x80 | (point & 0x3f));
  } else {
    put(0xf0 | point >> 18);
    put(0x80 | (point >> 12 & 0x3f));
    put(0x80 | (point >> 6 & 0x3f));
    put(0x80 | (point & 0x3f));
  }
}

/// The last entry of a sorted table that starts at or before a code point; null if there is none.
template <class Entry, std::size_t Size>
const Entry* entry_before(const Entry (&table)[Size], char32_t point) {
  const Entry* after = std::upper_bound(std::begin(table), std::end(table), point,
                                        [](char32_t p, const Entry& entry) { return p < entry.first; });
  return after == table ? nullptr : after - 1;
}

template <std::size_t Size>
bool contains(const code_range (&table)[Size], char32_t point) {
  const code_range* range = entry_before(table, point);
  return range != nullptr && point <= range->last;
}

/// Lower case without accents. Calls f with each code point that the given one becomes.
template <class F>
void fold(char32_t point, F f) {
  if (point >= 0xac00 && point <= 0xd7a3) {
    // A Hangul syllable is its consonant, its vowel and perhaps a final consonant.
    const char32_t syllable = point - 0xac00;
    f(0x1100 + syllable / 588);
    f(0x1161 + syllable / 28 % 21);
    if (syllable % 28 != 0) f(0x11a7 + syllable % 28);
  } else if (const folding* several = entry_before(expansions, point); several != nullptr && several->first == point) {
    for (const char32_t part : several->folded) f(part);
  } else {
    const folding* page = entry_before(pages, point);
    const std::size_t at = page == nullptr ? 0 : point - page->first;
    const bool changes = page != nullptr && at < page->folded.size() && page->folded[at] != U' ';
    f(changes ? page->folded[at] : point);
  }
}

/// Ideographs stand alone: Chinese puts no spaces between words.
inline bool is_ideograph(char32_t point) {
  static constexpr code_range ideographs[] = {{0x3400, 0x4dbf},   {0x4e00, 0x9fff},   {0xf900, 0xfaff},
                                              {0x20000, 0x2a6df}, {0x2a700, 0x2b73f}, {0x2b740, 0x2b81f},
                                              {0x2b920, 0x2ceaf}, {0x2f800, 0x2fa1f}};
  return contains(ideographs, point);
}

}  // namespace unicode

class wordpiece {
 public:
  /// Reads vocab.txt: token i on line i.
  explicit wordpiece(const std::filesystem::path& vocabulary) {
    std::ifstream lines(vocabulary);
    if (!lines) throw std::runtime_error("cannot read " + vocabulary.string());
    std::string token;
    for (std::int32_t id = 0; std::getline(lines, token); ++id) {
      if (!token.empty() && token.back() == '\r') token.pop_back();
      if (token.starts_with("##")) {
        inner_.emplace(token.substr(2), id);
      } else {
        first_.emplace(token, id);
      }
    }
    for (const char* name : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
      const auto found = first_.find(std::string_view(name));
      if (found == first_.end()) throw std::runtime_error(vocabulary.string() + " has no token " + name);
      special_.emplace_back(found->first, found->second);
    }
    unknown_ = special_[1].second;
    begin_ = special_[2].second;
    end_ = special_[3].second;
  }

  /// [CLS], the tokens of the text, [SEP]: cut to max_tokens, the two included.
  token_ids encode(std::string_view text, std::size_t max_tokens) const {
    token_ids ids = {begin_};
    std::string word;
    const auto finish_word = [&] {
      append_word(word, ids);
      word.clear();
    };
    while (!text.empty() && ids.size() < max_tokens) {
      if (const std::int32_t id = take_special(text); id >= 0) {
        finish_word();
        ids.push_back(id);
        continue;
      }
      const char32_t point = unicode::take(text);
      const bool ideograph = unicode::is_ideograph(point);
      if (unicode::contains(unicode::spaces, point) || ideograph) finish_word();
      if (unicode::contains(unicode::spaces, point) || unicode::contains(unicode::dropped, point)) continue;
      unicode::fold(point, [&](char32_t letter) {
        const bool punctuation = unicode::contains(unicode::punctuation, letter);
        if (punctuation) finish_word();
        unicode::append(word, letter);
        if (punctuation) finish_word();
      });
      if (ideograph) finish_word();
    }
    finish_word();
    ids.resize(std::min(ids.size(), max_tokens - 1));
    ids.push_back(end_);
    return ids;
  }

 private:
  /// Lets the table be asked with a part of a string, without a copy.
  struct text_hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  using table = std::unordered_map<std::string, std::int32_t, text_hash, std::equal_to<>>;

  /// Special tokens written in a text are themselves. Takes one off the text, or returns -1.
  std::int32_t take_special(std::string_view& text) const {
    if (text.front() != '[') return -1;
    for (const auto& [name, id] : special_) {
      if (!text.starts_with(name)) continue;
      text.remove_prefix(name.size());
      return id;
    }
    return -1;
  }

  /// The longest token that begins the word, then the longest that goes on from there; [UNK] if that gets stuck or the
  /// word has more than 100 letters.
  void append_word(std::string_view word, token_ids& ids) const {
    const auto begins_letter = [&](std::size_t at) { return (static_cast<unsigned char>(word[at]) & 0xc0) != 0x80; };
    std::size_t letters = 0;
    for (std::size_t at = 0; at < word.size(); ++at) letters += begins_letter(at);
    const std::size_t before = ids.size();
    std::size_t start = 0;
    while (start < word.size() && letters <= 100) {
      const table& known = start == 0 ? first_ : inner_;
      std::size_t end = word.size();
      auto found = known.find(word.substr(start));
      while (found == known.end() && end > start) {
        do --end;
        while (!begins_letter(end));
        if (end > start) found = known.find(word.substr(start, end - start));
      }
      if (found == known.end()) break;
      ids.push_back(found->second);
      start = end;
    }
    if (start == word.size()) return;
    ids.resize(before);
    ids.push_back(unknown_);
  }

  table first_, inner_;
  std::vector<std::pair<std::string, std::int32_t>> special_;
  std::int32_t unknown_ = 0, begin_ = 0, end_ = 0;
};

}  // namespace semantic_search
