/// The layouts of caches behind one face, so that one test replays operations on all of them. Each says from its
/// definition alone which tokens are live, where they are, and which appends must fail.
#pragma once

#include "ops/cache/twin.hpp"

#include <map>
#include <utility>

namespace cache_test {

struct shape {
  index_t B, G, D, E;
};

template <class Rows>
struct memory_pair {
  pool<Rows> k, v;
};

/// What every layout has: a cache over memory of the test's, with random sizes and settings, and the history of its
/// sequences.
template <class Rows>
struct subject {
  subject(const shape& extents, random_engine& random)
      : s(extents), key_format(draw_settings<Rows>(random)), value_format(draw_settings<Rows>(random)) {
    tokens.resize(static_cast<std::size_t>(s.B));
  }

  memory_pair<Rows> memory_of(index_t entries, index_t slots, random_engine& random) {
    const auto where = support::layouts[draw(random, 0, 3)];
    return {pool<Rows>({entries, s.G, slots, 0}, s.D, key_format, where),
            pool<Rows>({entries, s.G, slots, 0}, s.E, value_format, where)};
  }

  history& sequence(index_t b) { return tokens[static_cast<std::size_t>(b)]; }
  index_t length(index_t b) const { return static_cast<index_t>(tokens[static_cast<std::size_t>(b)].size()); }

  shape s;
  heed::row_settings<Rows> key_format, value_format;
  std::vector<history> tokens;
};

template <class Rows>
struct contiguous : subject<Rows> {
  contiguous(const shape& extents, random_engine& random)
      : subject<Rows>(extents, random),
        capacity(draw(random, 0, 12)),
        memory(this->memory_of(extents.B, capacity, random)),
        cache({extents.B, extents.G, capacity, extents.D, extents.E}, memory.k.memory(), memory.v.memory(),
              this->key_format, this->value_format) {}

  bool fits(index_t first, index_t last, index_t rows) const {
    for (index_t b = first; b < last; ++b)
      if (this->length(b) + rows > capacity) return false;
    return true;
  }
  void appended(index_t, index_t, index_t) {}

  void another_operation(random_engine& random) {
    if (draw(random, 0, 5) == 0) {
      cache.clear();
      for (history& sequence : this->tokens) sequence.clear();
    } else if (this->s.B > 0) {
      const index_t b = draw(random, 0, this->s.B - 1), length = draw(random, 0, this->length(b));
      cache.truncate(b, length);
      this->sequence(b).resize(static_cast<std::size_t>(length));
    }
  }

  index_t first_of_piece(index_t, int) const { return 0; }
  index_t last_of_piece(index_t b, int) const { return this->length(b); }
  void poison() {
    for (index_t b = 0; b < this->s.B; ++b)
      for (index_t slot = this->length(b); slot < capacity; ++slot) {
        memory.k.poison(b, slot);
        memory.v.poison(b, slot);
      }
  }
  void check_accounts() const {}
  std::vector<index_t> accounts() const { return {}; }

  index_t capacity;
  memory_pair<Rows> memory;
  heed::contiguous_cache<Rows> cache;
};

template <class Rows>
struct ring : subject<Rows> {
  ring(const shape& extents, random_engine& random)
      : subject<Rows>(extents, random),
        sinks(draw(random, 0, 3)),
        window(draw(random, 1, 6)),
        memory(this->memory_of(extents.B, sinks + window, random)),
        cache({extents.B, extents.G, sinks, window, extents.D, extents.E}, memory.k.memory(), memory.v.memory(),
              this->key_format, this->value_format) {}

  bool fits(index_t, index_t, index_t rows) const { return rows <= window; }
  void appended(index_t, index_t, index_t) {}

  void another_operation(random_engine& random) {
    if (draw(random, 0, 9) == 0) {
      cache.clear();
      for (history& sequence : this->tokens) sequence.clear();
    } else if (this->s.B > 0 && draw(random, 0, 3) == 0) {
      const index_t b = draw(random, 0, this->s.B - 1);
      cache.clear(b);
      this->sequence(b).clear();
    }
  }

  index_t first_of_piece(index_t b, int piece) const {
    return piece == 0 ? 0 : std::max(sinks, this->length(b) - window);
  }
  index_t last_of_piece(index_t b, int piece) const {
    return piece == 0 ? std::min(sinks, this->length(b)) : std::max(sinks, this->length(b));
  }
  void poison() {
    for (index_t b = 0; b < this->s.B; ++b) {
      std::vector<bool> live(static_cast<std::size_t>(sinks + window));
      for (index_t t = 0; t < this->length(b); ++t)
        if (t < sinks || t >= this->length(b) - window)
          live[static_cast<std::size_t>(t < sinks ? t : sinks + (t - sinks) % window)] = true;
      for (index_t slot = 0; slot < sinks + window; ++slot)
        if (!live[static_cast<std::size_t>(slot)]) {
          memory.k.poison(b, slot);
          memory.v.poison(b, slot);
        }
    }
  }
  void check_accounts() const {}
  std::vector<index_t> accounts() const { return {}; }

  index_t sinks, window;
  memory_pair<Rows> memory;
  heed::ring_cache<Rows> cache;
};

/// Pages are numbers that are never used again; who holds which is all there is to know.
template <class Rows>
struct paged : subject<Rows> {
  using lists = std::vector<std::vector<int>>;

  paged(const shape& extents, random_engine& random)
      : subject<Rows>(extents, random),
        pages(draw(random, 0, 9)),
        page_size(draw(random, 1, 4)),
        sequence_pages(draw(random, pages / 2, pages)),
        memory(this->memory_of(pages, page_size, random)),
        cache({extents.B, extents.G, pages, page_size, extents.D, extents.E, sequence_pages}, memory.k.memory(),
              memory.v.memory(), this->key_format, this->value_format),
        held(static_cast<std::size_t>(extents.B)) {}

  static std::map<int, index_t> holders(const lists& of) {
    std::map<int, index_t> count;
    for (const auto& list : of)
      for (const int page : list) ++count[page];
    return count;
  }

  /// Who holds what after an append to sequences [first, last), one after the other.
  lists after(index_t first, index_t last, index_t rows) {
    lists of = held;
    for (index_t b = first; b < last && rows > 0; ++b) {
      auto& list = of[static_cast<std::size_t>(b)];
      if (this->length(b) % page_size != 0 && holders(of)[list.back()] > 1) list.back() = ++newest;
      while (static_cast<index_t>(list.size()) * page_size < this->length(b) + rows) list.push_back(++newest);
    }
    return of;
  }
  bool fits(index_t first, index_t last, index_t rows) {
    const lists of = after(first, last, rows);
    for (const auto& list : of)
      if (static_cast<index_t>(list.size()) > sequence_pages) return false;
    return static_cast<index_t>(holders(of).size()) <= pages;
  }
  void appended(index_t first, index_t last, index_t rows) { held = after(first, last, rows); }

  void shorten(index_t b, index_t length) {
    this->sequence(b).resize(static_cast<std::size_t>(length));
    held[static_cast<std::size_t>(b)].resize(static_cast<std::size_t>((length + page_size - 1) / page_size));
  }

  void another_operation(random_engine& random) {
    if (this->s.B == 0) return cache.clear();
    const index_t b = draw(random, 0, this->s.B - 1), other = draw(random, 0, this->s.B - 1);
    const index_t length = draw(random, 0, this->length(b));
    switch (draw(random, 0, 12)) {
      case 0:
        cache.clear();
        for (index_t i = 0; i < this->s.B; ++i) shorten(i, 0);
        return;
      case 1:
        cache.free(b);
        return shorten(b, 0);
      case 2:
      case 3:
        cache.truncate(b, length);
        return shorten(b, length);
      default:
        if (this->length(other) != 0) {
          CHECK_THROWS_AS(cache.fork(b, other), heed::invalid_argument);
          cache.free(other);
          shorten(other, 0);
        }
        if (b == other) return;
        const bool whole = draw(random, 0, 1) == 0;
        if (whole)
          cache.fork(b, other);
        else
          cache.fork(b, other, length);
        this->sequence(other) = this->sequence(b);
        held[static_cast<std::size_t>(other)] = held[static_cast<std::size_t>(b)];
        shorten(other, whole ? this->length(b) : length);
    }
  }

  index_t first_of_piece(index_t, int) const { return 0; }
  index_t last_of_piece(index_t b, int) const { return this->length(b); }
  void poison() {
    std::vector<index_t> used(static_cast<std::size_t>(pages));
    for (index_t b = 0; b < this->s.B; ++b)
      for (index_t i = 0; i < cache.pages(b).extent(0); ++i) {
        index_t& slots = used[static_cast<std::size_t>(cache.pages(b)[i])];
        slots = std::max(slots, std::min(page_size, this->length(b) - i * page_size));
      }
    for (index_t page = 0; page < pages; ++page)
      for (index_t slot = used[static_cast<std::size_t>(page)]; slot < page_size; ++slot) {
        memory.k.poison(page, slot);
        memory.v.poison(page, slot);
      }
  }

  /// The cache's lists are the model's under other names, one to one, and what nobody holds is free.
  void check_accounts() const {
    std::map<int, index_t> name;
    std::map<index_t, int> back;
    bool one_to_one = true, counted = true;
    const auto count = holders(held);
    for (index_t b = 0; b < this->s.B; ++b) {
      const auto& list = held[static_cast<std::size_t>(b)];
      const auto mine = cache.pages(b);
      REQUIRE(mine.extent(0) == static_cast<index_t>(list.size()));
      for (index_t i = 0; i < mine.extent(0); ++i) {
        const int page = list[static_cast<std::size_t>(i)];
        one_to_one = one_to_one && mine[i] >= 0 && mine[i] < pages &&
                     name.emplace(page, mine[i]).first->second == mine[i] &&
                     back.emplace(mine[i], page).first->second == page;
        counted = counted && cache.references(mine[i]) == count.at(page);
      }
    }
    CHECK(one_to_one);
    CHECK(counted);
    CHECK(cache.free_pages() == pages - static_cast<index_t>(count.size()));
    for (index_t page = 0; page < pages; ++page)
      if (back.count(page) == 0) CHECK(cache.references(page) == 0);
  }
  std::vector<index_t> accounts() const {
    std::vector<index_t> all{cache.free_pages()};
    for (index_t page = 0; page < pages; ++page) all.push_back(cache.references(page));
    for (index_t b = 0; b < this->s.B; ++b)
      for (index_t i = 0; i < cache.pages(b).extent(0); ++i) all.push_back(cache.pages(b)[i]);
    return all;
  }

  index_t pages, page_size, sequence_pages;
  memory_pair<Rows> memory;
  heed::paged_cache<Rows> cache;
  lists held;
  int newest = 0;
};

/// Whether a cache shows the live tokens, and no others, to who reads it as operators do.
template <class Subject>
bool shows_its_tokens(Subject& x, random_engine& random) {
  bool right = x.cache.batch() == x.s.B && x.cache.kv_heads() == x.s.G && x.cache.features() == x.s.D &&
               x.cache.value_features() == x.s.E;
  for (index_t b = 0; b < x.s.B; ++b) {
    right = right && x.cache.end(b) == x.length(b);
    for (int p = 0; p < x.cache.pieces; ++p) {
      const index_t first = x.first_of_piece(b, p), last = x.last_of_piece(b, p);
      right = right && x.cache.position(b, p) == first;
      for (index_t g = 0; g < x.s.G; ++g)
        right = right && source_holds<float>(x.cache.piece(b, g, p), x.sequence(b), first, last,
                                             static_cast<std::size_t>(g), x.s.D, x.s.E, random);
    }
  }
  return right;
}

/// Everything that an append may change.
template <class Subject>
std::pair<std::vector<unsigned char>, std::vector<index_t>> state_of(Subject& x) {
  std::pair<std::vector<unsigned char>, std::vector<index_t>> state;
  add_bytes(state.first, x.memory.k.memory());
  add_bytes(state.first, x.memory.v.memory());
  state.second = x.accounts();
  for (index_t b = 0; b < x.s.B; ++b) state.second.push_back(x.cache.end(b));
  return state;
}

}  // namespace cache_test
