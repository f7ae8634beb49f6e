/// Texts continued side by side, token by token, with keys and values in the pages of one pool for each layer.
#pragma once

#include <algorithm>
#include <chrono>
#include <deque>
#include <heed/cache.hpp>
#include <heed/softmax.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "decoder.hpp"

namespace generate {

struct server_settings {
  index_t slots = 4;          // texts at a time
  index_t page_size = 16;     // tokens in a page
  index_t most_tokens = 256;  // in a text, prompt included
};

/// A text and how it came about. The last token was chosen, and never read.
struct completion {
  token_ids tokens;
  index_t prompt_length = 0;
  index_t shared = 0;  // tokens whose keys and values another text had
  matrix logits;       // a row for each token chosen

  bool ended(index_t most_tokens) const {
    if (static_cast<index_t>(tokens.size()) == prompt_length) return false;
    return tokens.back() == boundary || tokens.back() == token_of('.') ||
           static_cast<index_t>(tokens.size()) == most_tokens;
  }
};

struct server_cost {
  index_t prefilled = 0, shared = 0, decoded = 0;  // tokens
  std::chrono::duration<double> prefilling{0}, decoding{0};
  index_t most_pages = 0;  // in use at a time, of each layer
};

/// `Rows`: how caches store keys and values, see docs/cache.md.
template <class Rows>
class server {
 public:
  server(const decoder& model, const server_settings& settings)
      : model_(model), settings_(settings), slots_(settings.slots) {
    for (const layer& l : model.layers)
      caches_.emplace_back(heed::paged_sizes{.batch = settings.slots,
                                             .kv_heads = l.kv_heads,
                                             .pages = pool_pages(),
                                             .page_size = settings.page_size,
                                             .features = l.features,
                                             .value_features = l.value_features});
  }

  /// Continues all prompts, each up to its first full stop.
  std::vector<completion> serve(const std::vector<token_ids>& prompts) {
    std::vector<completion> done(prompts.size());
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      const auto length = static_cast<index_t>(prompts[i].size());
      if (length == 0 || length >= settings_.most_tokens)
        throw std::invalid_argument("a prompt needs 1 to " + std::to_string(settings_.most_tokens - 1) +
                                    " tokens, not " + std::to_string(length));
      done[i].tokens = prompts[i];
      done[i].prompt_length = length;
      waiting_.push_back(&done[i]);
    }
    for (admit(); any_of(slots_); admit()) step();
    return done;
  }

  const server_cost& cost() const { return cost_; }
  index_t pool_pages() const {
    return settings_.slots * ((settings_.most_tokens + settings_.page_size - 1) / settings_.page_size);
  }
  index_t pages_in_use() const { return pool_pages() - caches_.front().free_pages(); }

 private:
  using clock = std::chrono::steady_clock;
  /// The text of each slot; none: the slot is free.
  using texts = std::vector<completion*>;

  static bool any_of(const texts& of) {
    return std::any_of(of.begin(), of.end(), [](const completion* text) { return text != nullptr; });
  }

  static index_t common_prefix(const token_ids& a, const token_ids& b) {
    return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
  }

  /// Fills free slots with waiting prompts, in their order, and reads these.
  void admit() {
    for (;;) {
      texts fresh(slots_.size());
      for (index_t b = 0; b < settings_.slots && !waiting_.empty(); ++b) {
        if (slots_[b] != nullptr) continue;
        // Pages that are about to be filled can be shared once they are.
        if (shares_a_page(fresh, waiting_.front()->tokens)) break;
        slots_[b] = fresh[b] = waiting_.front();
        waiting_.pop_front();
        share_prefix(b, fresh);
      }
      if (!any_of(fresh)) return;
      prefill(fresh);
    }
  }

  bool shares_a_page(const texts& others, const token_ids& tokens) const {
    return std::any_of(others.begin(), others.end(), [&](const completion* other) {
      return other != nullptr && common_prefix(other->tokens, tokens) >= settings_.page_size;
    });
  }

  /// Slot b begins with the longest prefix that a text has in the caches. The last token of the prompt is read anyhow:
  /// what comes next is said by its row.
  void share_prefix(index_t b, const texts& fresh) {
    completion& text = *slots_[b];
    index_t from = b;
    for (index_t other = 0; other < settings_.slots; ++other) {
      if (slots_[other] == nullptr || slots_[other] == fresh[other]) continue;
      const index_t common = std::min(
          {common_prefix(slots_[other]->tokens, text.tokens), text.prompt_length - 1, caches_.front().end(other)});
      if (common <= text.shared) continue;
      text.shared = common;
      from = other;
    }
    if (from == b) return;
    for (auto& cache : caches_) cache.fork(from, b, text.shared);
    cost_.shared += text.shared;
  }

  /// Reads the prompts of fresh slots in one pass, packed one after the other. The other slots have no queries.
  void prefill(const texts& fresh) {
    const auto start = clock::now();
    token_ids tokens;
    std::vector<std::int32_t> positions, offsets{0};
    for (const completion* text : fresh) {
      if (text != nullptr)
        for (index_t t = text->shared; t < text->prompt_length; ++t) {
          tokens.push_back(text->tokens[t]);
          positions.push_back(static_cast<std::int32_t>(t));
        }
      offsets.push_back(static_cast<std::int32_t>(tokens.size()));
    }
    const matrix x = model_.hidden(
        tokens, positions, [&](std::size_t number, const matrix& q, const matrix& k, const matrix& v, matrix& out) {
          const layer& l = model_.layers[number];
          const auto all_k = heed::as_heads(k, l.kv_heads)[0], all_v = heed::as_heads(v, l.kv_heads)[0];  // [G,T,*]
          for (index_t b = 0; b < settings_.slots; ++b)
            caches_[number].append(b, all_k.slice(1, offsets[b], offsets[b + 1]),
                                   all_v.slice(1, offsets[b], offsets[b + 1]));
          heed::softmax_forward(heed::as_heads(q, l.heads), caches_[number], heed::as_heads(out, l.heads),
                                {.cu_seqlens_q = offsets}, heed::causal{}, heed::alibi{l.slopes});
        });
    matrix last = matrix::Zero(settings_.slots, x.cols());
    for (index_t b = 0; b < settings_.slots; ++b)
      if (fresh[b] != nullptr) last.row(b) = x.row(offsets[b + 1] - 1);
    cost_.prefilled += static_cast<index_t>(tokens.size());
    cost_.prefilling += clock::now() - start;
    choose(fresh, last);
  }

  /// Reads the newest token of each text. Free slots take part, without keys and to no end.
  void step() {
    const auto start = clock::now();
    const texts running = slots_;
    token_ids tokens(slots_.size(), boundary);
    std::vector<std::int32_t> positions(slots_.size(), 0);
    for (index_t b = 0; b < settings_.slots; ++b) {
      if (running[b] == nullptr) continue;
      tokens[b] = running[b]->tokens.back();
      positions[b] = static_cast<std::int32_t>(running[b]->tokens.size()) - 1;
      ++cost_.decoded;
    }
    const matrix x = model_.hidden(
        tokens, positions, [&](std::size_t number, const matrix& q, const matrix& k, const matrix& v, matrix& out) {
          const layer& l = model_.layers[number];
          const auto each_k = heed::as_heads(k, l.kv_heads, settings_.slots);  // [B,G,1,*]
          const auto each_v = heed::as_heads(v, l.kv_heads, settings_.slots);
          for (index_t b = 0; b < settings_.slots; ++b)
            if (running[b] != nullptr) caches_[number].append(b, each_k[b], each_v[b]);
          heed::softmax_step(heed::as_heads(q, l.heads, settings_.slots), caches_[number],
                             heed::as_heads(out, l.heads, settings_.slots), {}, heed::alibi{l.slopes});
        });
    cost_.decoding += clock::now() - start;
    choose(running, x);
  }

  /// Each text goes on with its likeliest token. Texts that end give their pages back.
  void choose(const texts& of, const matrix& x) {
    cost_.most_pages = std::max(cost_.most_pages, pages_in_use());
    const matrix logits = model_.logits(x);
    for (index_t b = 0; b < settings_.slots; ++b) {
      if (of[b] == nullptr) continue;
      completion& text = *of[b];
      index_t likeliest = 0;
      logits.row(b).maxCoeff(&likeliest);
      text.tokens.push_back(static_cast<token>(likeliest));
      text.logits.conservativeResize(text.logits.rows() + 1, vocabulary);
      text.logits.bottomRows(1) = logits.row(b);
      if (!text.ended(settings_.most_tokens)) continue;
      for (auto& cache : caches_) cache.free(b);
      slots_[b] = nullptr;
    }
  }

  const decoder& model_;
  server_settings settings_;
  std::vector<heed::paged_cache<Rows>> caches_;  // of each layer
  texts slots_;
  std::deque<completion*> waiting_;
  server_cost cost_;
};

}  // namespace generate
