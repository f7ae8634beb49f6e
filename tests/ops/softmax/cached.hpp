/// Random tokens in caches, and what attention over them is by definition: over all tokens ever seen, less those that a
/// layout has dropped.
#pragma once

#include "ops/cache/twin.hpp"
#include "ops/softmax/step.hpp"

#include <heed/mod/masks.hpp>

#include <functional>
#include <utility>
#include <vector>

namespace softmax_test {

/// Whether token t of a sequence is live, once the sequence has seen `end` tokens.
using liveness = std::function<bool(index_t t, index_t end)>;
inline bool all_live(index_t, index_t) { return true; }

/// Tokens of B sequences as they are given, and as rows of a format hold them: [1,G,length,D], [1,G,length,E] each.
template <class Rows>
struct cached_tokens {
  cached_tokens(const shape& of, std::vector<index_t> token_counts, unsigned seed)
      : s(of), lengths(std::move(token_counts)), random(seed) {
    keys = cache_test::draw_settings<Rows>(random);
    values = cache_test::draw_settings<Rows>(random);
    for (const index_t length : lengths) {
      k.push_back(support::normal_tensor<float, 4>({1, s.G, length, s.D}, random));
      v.push_back(support::normal_tensor<float, 4>({1, s.G, length, s.E}, random));
      stored_k.push_back(stored(k.back(), keys));
      stored_v.push_back(stored(v.back(), values));
    }
  }

  /// Appends everything, `most` tokens at a time, to each sequence in turn.
  template <class Cache>
  void append_to(Cache& cache, index_t most) const {
    bool more = true;
    for (index_t first = 0; more; first += most) {
      more = false;
      for (std::size_t b = 0; b < lengths.size(); ++b) {
        const index_t last = std::min(lengths[b], first + most);
        if (first >= last) continue;
        cache.append(static_cast<index_t>(b), k[b].all()[0].slice(1, first, last), v[b].all()[0].slice(1, first, last));
        more = true;
      }
    }
  }

  static tensor<float, 4> stored(const tensor<float, 4>& rows, const heed::row_settings<Rows>& format) {
    tensor<float, 4> result({1, rows.extent(1), rows.extent(2), rows.extent(3)});
    for (index_t g = 0; g < rows.extent(1); ++g)
      for (index_t t = 0; t < rows.extent(2); ++t) {
        const auto row = cache_test::stored<Rows>(&rows(0, g, t, 0), rows.extent(3), format);
        for (index_t d = 0; d < rows.extent(3); ++d)
          result(0, g, t, d) = static_cast<float>(row[static_cast<std::size_t>(d)].value);
      }
    return result;
  }

  shape s;
  std::vector<index_t> lengths;
  support::random_engine random;
  heed::row_settings<Rows> keys{}, values{};
  std::vector<tensor<float, 4>> k, v, stored_k, stored_v;
};

/// Memory of a cache that is NaN wherever nothing was stored.
template <class Rows>
struct lent_rows {
  lent_rows(index_t entries, index_t slots, const cached_tokens<Rows>& tokens, support::layout where)
      : k({entries, tokens.s.G, slots, 0}, tokens.s.D, tokens.keys, where),
        v({entries, tokens.s.G, slots, 0}, tokens.s.E, tokens.values, where) {}
  bool intact() const { return k.intact() && v.intact(); }

  cache_test::pool<Rows> k, v;
};

/// The lists of a paged cache as a table for paged_view.
class page_lists {
 public:
  template <class Rows>
  explicit page_lists(const heed::paged_cache<Rows>& cache) {
    for (index_t b = 0; b < cache.batch(); ++b) {
      const auto pages = cache.pages(b);
      for (index_t i = 0; i < pages.extent(0); ++i) indices_.push_back(pages[i]);
      indptr_.push_back(static_cast<std::int32_t>(indices_.size()));
      last_page_len_.push_back(static_cast<std::int32_t>(cache.end(b) - (pages.extent(0) - 1) * cache.page_size()));
    }
  }
  heed::page_table table() const { return {all(indptr_), all(indices_), all(last_page_len_)}; }

 private:
  static view<const std::int32_t, 1> all(const std::vector<std::int32_t>& list) {
    return {list.data(), {static_cast<index_t>(list.size())}};
  }
  std::vector<std::int32_t> indptr_{0}, indices_, last_page_len_;
};

/// The error of out [1,H,N,E] and lse as the result of queries of sequence b.
template <class Rows, class... Mods>
double sequence_error(const cached_tokens<Rows>& tokens, std::size_t b, const view<const float, 4>& q,
                      const view<const float, 4>& out, const view<const float, 3>& lse,
                      const softmax_options<float>& options, const liveness& live, const Mods&... mods) {
  reference::softmax_arguments arguments = arguments_of<float>(options);
  (add_mod(arguments, mods), ...);
  const index_t end = tokens.lengths[b];
  arguments.visible = [live, end, offset = options.kv_offset, before = arguments.visible](int, int h, int p, int t) {
    return live(t - offset, end) && (!before || before(0, h, p, t));
  };
  return worst_error<float>(out, lse, reference::softmax<float>(q, tokens.stored_k[b], tokens.stored_v[b], arguments));
}

/// Solves p with softmax_step over a cache of these tokens and returns the worst error.
template <class Rows, class Cache, class... Mods>
double cached_step_error(problem<float>& p, const Cache& cache, const cached_tokens<Rows>& tokens,
                         softmax_step_options<float> options, const liveness& live, const Mods&... mods) {
  options.lse = p.lse;
  heed::softmax_step(p.q, cache, p.out, options, mods...);
  double worst = 0;
  for (std::size_t b = 0; b < tokens.lengths.size(); ++b) {
    const auto entry = [b](const auto& t) { return t.all().slice(0, index_t(b), index_t(b) + 1); };
    worst = worse(
        worst, sequence_error(tokens, b, entry(p.q), entry(p.out), entry(p.lse), as_forward(options), live, mods...));
  }
  return worst;
}

/// The same with softmax_forward, of queries that are packed where there are offsets.
template <class Rows, class Cache, class... Mods>
double cached_forward_error(problem<float>& p, const Cache& cache, const cached_tokens<Rows>& tokens,
                            softmax_options<float> options, const liveness& live, const Mods&... mods) {
  options.lse = p.lse;
  heed::softmax_forward(p.q, cache, p.out, options, mods...);
  const heed::sequence_offsets cu = std::exchange(options.cu_seqlens_q, {});
  double worst = 0;
  for (std::size_t b = 0; b < tokens.lengths.size(); ++b) {
    const index_t at = static_cast<index_t>(b);
    const auto own = [&](const auto& t) {
      return cu ? t.all().slice(2, cu.at(at), cu.at(at + 1)) : t.all().slice(0, at, at + 1);
    };
    worst = worse(worst, sequence_error(tokens, b, own(p.q), own(p.out), own(p.lse), options, live, mods...));
  }
  return worst;
}

/// f(cache, live tokens) for every layout, filled with the tokens, over memory that is NaN besides.
template <class Rows, class F>
void for_each_layout(const cached_tokens<Rows>& tokens, F f) {
  const shape& s = tokens.s;
  const auto batch = static_cast<index_t>(tokens.lengths.size());
  const index_t longest = *std::max_element(tokens.lengths.begin(), tokens.lengths.end());
  {
    lent_rows<Rows> memory(batch, longest + 5, tokens, support::layout::padded);
    heed::contiguous_cache<Rows> cache({batch, s.G, longest + 5, s.D, s.E}, memory.k.memory(), memory.v.memory(),
                                       tokens.keys, tokens.values);
    tokens.append_to(cache, 50);
    f(cache, all_live);
    CHECK(memory.intact());
  }
  for (const auto& [sinks, window] : {std::pair<index_t, index_t>{0, 70}, {3, 40}, {4, 1}, {1, 500}}) {
    CAPTURE(sinks, window);
    lent_rows<Rows> memory(batch, sinks + window, tokens, support::layout::reversed);
    heed::ring_cache<Rows> cache({batch, s.G, sinks, window, s.D, s.E}, memory.k.memory(), memory.v.memory(),
                                 tokens.keys, tokens.values);
    tokens.append_to(cache, std::min<index_t>(window, 9));
    f(cache, [first = sinks, last = window](index_t t, index_t end) { return t < first || t >= end - last; });
    CHECK(memory.intact());
  }
  for (const index_t page_size : {1, 3, 16, 64}) {
    CAPTURE(page_size);
    const index_t pages = batch * ((longest + page_size - 1) / page_size) + 1;
    lent_rows<Rows> memory(pages, page_size, tokens, support::layout::tokens_first);
    heed::paged_cache<Rows> cache({batch, s.G, pages, page_size, s.D, s.E}, memory.k.memory(), memory.v.memory(),
                                  tokens.keys, tokens.values);
    tokens.append_to(cache, 7);
    f(cache, all_live);
    // One format will do: the table is read alike for all.
    if constexpr (std::is_same_v<Rows, heed::int8_rows>) {
      const page_lists lists(cache);
      f(heed::paged_view<Rows>({s.G, pages, page_size, s.D, s.E}, memory.k.memory(), memory.v.memory(), lists.table(),
                               tokens.keys, tokens.values),
        all_live);
    }
    CHECK(memory.intact());
  }
}

}  // namespace softmax_test
