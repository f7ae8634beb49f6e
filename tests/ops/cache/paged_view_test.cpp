#include "ops/cache/layouts.hpp"

#include <numeric>

using namespace cache_test;

namespace {

/// A pool of which everything is filled, with a table that deals pages to sequences as it comes.
struct dealt_table {
  dealt_table(index_t batch, index_t pages, index_t page_size, random_engine& random) {
    for (index_t b = 0; b < batch; ++b) {
      const index_t count = pages == 0 ? 0 : draw(random, 0, 3);
      for (index_t i = 0; i < count; ++i) indices.push_back(static_cast<std::int32_t>(draw(random, 0, pages - 1)));
      indptr.push_back(static_cast<std::int32_t>(indices.size()));
      last_page_len.push_back(count == 0 ? -9 : static_cast<std::int32_t>(draw(random, 1, page_size)));
    }
  }
  heed::page_table table() const {
    const auto all = [](const std::vector<std::int32_t>& of) {
      return view<const std::int32_t, 1>(of.data(), {static_cast<index_t>(of.size())});
    };
    return {all(indptr), all(indices), all(last_page_len)};
  }

  std::vector<std::int32_t> indptr{0}, indices, last_page_len;
};

template <class Rows>
void check_table(unsigned seed) {
  random_engine random(seed);
  const index_t pages = draw(random, 0, 6), page_size = draw(random, 1, 5), batch = draw(random, 0, 4);
  const index_t G = draw(random, 1, 2), D = draw(random, 1, 40), E = draw(random, 1, 40);
  const auto keys = draw_settings<Rows>(random), values = draw_settings<Rows>(random);
  fresh_rows<Rows> k({pages, G, page_size, D}, keys, std::is_same_v<Rows, float>, random);
  fresh_rows<Rows> v({pages, G, page_size, E}, values, std::is_same_v<Rows, float>, random);
  const dealt_table dealt(batch, pages, page_size, random);
  CAPTURE(seed, pages, page_size, batch);
  k.with([&](const auto& key_rows) {
    v.with([&](const auto& value_rows) {
      if constexpr (requires { heed::paged_view<Rows>({}, key_rows, value_rows, {}); }) {
        const heed::paged_view<Rows> cache({G, pages, page_size, D, E}, key_rows, value_rows, dealt.table(), keys,
                                           values);
        REQUIRE(cache.batch() == batch);
        for (index_t b = 0; b < batch; ++b) {
          const auto at = static_cast<std::size_t>(b);
          const index_t begin = dealt.indptr[at], count = dealt.indptr[at + 1] - begin;
          const index_t length = count == 0 ? 0 : (count - 1) * page_size + dealt.last_page_len[at];
          CHECK(cache.end(b) == length);
          CHECK(cache.position(b, 0) == 0);
          for (index_t g = 0; g < G; ++g) {
            history tokens;
            for (index_t t = 0; t < length; ++t) {
              const index_t page = dealt.indices[static_cast<std::size_t>(begin + t / page_size)];
              tokens.push_back({{k.at(page, g, t % page_size)}, {v.at(page, g, t % page_size)}});
            }
            CHECK(source_holds<float>(cache.piece(b, g, 0), tokens, 0, length, 0, D, E, random));
          }
        }
      }
    });
  });
}

}  // namespace

TEMPLATE_TEST_CASE("a paged view reads the pages that its table names", "", float, double, heed::bfloat16,
                   heed::float16, heed::int8_rows, heed::int4_rows, heed::int4_half32_rows) {
  for (unsigned seed = 1; seed <= 60; ++seed) check_table<TestType>(seed);
}

TEST_CASE("a paged view of a pool with the slot before the head") {
  // [P, page_size, G, D]
  heed::tensor<float, 4> k({2, 3, 2, 4}), v({2, 3, 2, 5});
  std::iota(k.begin(), k.end(), 0.0f);
  std::iota(v.begin(), v.end(), 1000.0f);
  const std::int32_t indptr[] = {0, 2}, indices[] = {1, 0}, last_page_len[] = {2};
  const heed::paged_view<float> cache({2, 2, 3, 4, 5}, k.all().swap_axes(1, 2), v.all().swap_axes(1, 2),
                                      {{indptr, {2}}, {indices, {2}}, {last_page_len, {1}}});
  CHECK(cache.end(0) == 5);
  const auto source = cache.piece(0, 1, 0);
  CHECK(source.keys(0, 5).count == 3);
  CHECK(*source.keys(2, 3).data == k(1, 2, 1, 0));
  CHECK(source.keys(3, 2).count == 2);
  CHECK(*source.keys(4, 1).data == k(0, 1, 1, 0));
  CHECK(*source.values(4, 1).data == v(0, 1, 1, 0));
}

TEST_CASE("a paged view over the pages of a paged cache shows the same tokens") {
  random_engine random(5);
  heed::tensor<float, 4> k({4, 1, 2, 3}), v({4, 1, 2, 3});
  heed::paged_cache<float> cache({.batch = 2, .pages = 4, .page_size = 2, .features = 3}, k, v);
  const auto rows = support::normal_tensor<float, 4>({2, 1, 3, 3}, random);
  cache.append(rows, rows);
  cache.truncate(1, 2);
  std::vector<std::int32_t> indptr{0}, indices, last_page_len;
  for (index_t b = 0; b < 2; ++b) {
    for (index_t i = 0; i < cache.pages(b).extent(0); ++i) indices.push_back(cache.pages(b)[i]);
    indptr.push_back(static_cast<std::int32_t>(indices.size()));
    last_page_len.push_back(static_cast<std::int32_t>((cache.end(b) - 1) % cache.page_size() + 1));
  }
  const heed::paged_view<float> other(
      {1, 4, 2, 3}, k, v,
      {{indptr.data(), {3}}, {indices.data(), {static_cast<index_t>(indices.size())}}, {last_page_len.data(), {2}}});
  for (index_t b = 0; b < 2; ++b) {
    REQUIRE(other.end(b) == cache.end(b));
    for (index_t t = 0; t < cache.end(b); ++t)
      CHECK(other.piece(b, 0, 0).keys(t, 1).data == cache.piece(b, 0, 0).keys(t, 1).data);
  }
}
