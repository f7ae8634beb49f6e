#include "ops/cache/layouts.hpp"
#include "support/allocations.hpp"

using namespace cache_test;

namespace {

/// Key d of row i of a piece.
template <class Source>
float key(const Source& source, index_t i, index_t d = 0) {
  return source.keys(i, 1).data[d];
}

/// T rows [1,1,T,1] of the numbers first, first + 1, ...
heed::tensor<float, 4> counting(index_t first, index_t rows) {
  heed::tensor<float, 4> x({1, 1, rows, 1});
  for (index_t t = 0; t < rows; ++t) x(0, 0, t, 0) = static_cast<float>(first + t);
  return x;
}

}  // namespace

TEST_CASE("a ring keeps sinks and window at every phase, for every size of append") {
  for (index_t sinks = 0; sinks <= 3; ++sinks)
    for (index_t window = 1; window <= 5; ++window)
      for (index_t step = 1; step <= window; ++step) {
        heed::ring_cache<float> cache({.sinks = sinks, .window = window, .features = 1});
        for (index_t seen = 0; seen < 4 * (sinks + window);) {
          const auto rows = counting(seen, step);
          cache.append(rows, rows);
          seen += step;
          CAPTURE(sinks, window, step, seen);
          REQUIRE(cache.end(0) == seen);
          for (int p = 0; p < 2; ++p) {
            const auto source = cache.piece(0, 0, p);
            const index_t first = p == 0 ? 0 : std::max(sinks, seen - window);
            const index_t count = p == 0 ? std::min(sinks, seen) : std::min(window, std::max<index_t>(0, seen - sinks));
            REQUIRE(cache.position(0, p) == first);
            REQUIRE(source.count == count);
            bool right = true;
            for (index_t i = 0; i < count; ++i) right = right && key(source, i) == static_cast<float>(first + i);
            CHECK(right);
            // One run, or two around the wrap.
            if (count > 0) {
              const index_t run = source.keys(0, count).count;
              CHECK((run == count || source.keys(run, count - run).count == count - run));
            }
          }
        }
      }
}

TEST_CASE("a copy of a cache has rows of its own, or the same caller's") {
  heed::paged_cache<float> own({.pages = 2, .page_size = 2, .features = 1});
  const auto one = counting(1, 1), two = counting(2, 1);
  own.append(one, one);
  heed::paged_cache<float> copy = own;
  own.append(two, two);
  copy.append(one, one);
  CHECK((key(own.piece(0, 0, 0), 1) == 2 && key(copy.piece(0, 0, 0), 1) == 1));

  heed::tensor<float, 4> k({1, 1, 3, 1}), v({1, 1, 3, 1});
  heed::contiguous_cache<float> lent({.capacity = 3, .features = 1}, k, v);
  lent.append(one, one);
  const heed::contiguous_cache<float> same = lent;
  CHECK(same.piece(0, 0, 0).keys(0, 1).data == k.data());
}

TEST_CASE("fork shares pages until one of the sequences writes") {
  heed::paged_cache<float> cache({.batch = 3, .pages = 4, .page_size = 4, .features = 1, .sequence_pages = 2});
  const auto prefix = counting(0, 6), next = counting(100, 1);
  cache.append(0, prefix.all()[0], prefix.all()[0]);
  CHECK(cache.free_pages() == 2);
  cache.fork(0, 1);
  cache.fork(0, 2, 4);
  CHECK(cache.free_pages() == 2);
  CHECK((cache.references(cache.pages(0)[0]) == 3 && cache.references(cache.pages(0)[1]) == 2));

  // Two write to the page they share, so one of them gets a copy; the third gets its second page.
  heed::tensor<float, 4> rows({3, 1, 1, 1});
  for (index_t b = 0; b < 3; ++b) rows(b, 0, 0, 0) = static_cast<float>(10 * b);
  cache.append(rows, rows);
  CHECK(cache.free_pages() == 0);
  for (index_t b = 0; b < 3; ++b) {
    const auto source = cache.piece(b, 0, 0);
    const index_t length = b == 2 ? 5 : 7;
    REQUIRE(source.count == length);
    for (index_t i = 0; i + 1 < length; ++i) CHECK(key(source, i) == static_cast<float>(i));
    CHECK(key(source, length - 1) == static_cast<float>(10 * b));
  }

  // A page that only the tail of another sequence needs still belongs to it.
  cache.free(1);
  cache.truncate(0, 3);
  CHECK(cache.references(cache.pages(0)[0]) == 2);
  CHECK(cache.free_pages() == 2);
  cache.append(0, next.all()[0], next.all()[0]);
  CHECK((key(cache.piece(0, 0, 0), 3) == 100 && key(cache.piece(2, 0, 0), 3) == 3));
  cache.clear();
  CHECK(cache.free_pages() == 4);
}

TEMPLATE_TEST_CASE("after construction nothing allocates", "", float, heed::bfloat16, heed::int8_rows,
                   heed::int4_rows) {
  const auto k = heed::tensor<float, 4>::full({2, 2, 3, 20}, 1.5f);
  heed::contiguous_cache<TestType> contiguous({.batch = 2, .kv_heads = 2, .capacity = 8, .features = 20});
  heed::ring_cache<TestType> ring({.batch = 2, .kv_heads = 2, .sinks = 1, .window = 4, .features = 20});
  heed::paged_cache<TestType> paged({.batch = 2, .kv_heads = 2, .pages = 6, .page_size = 4, .features = 20});
  CHECK(support::allocations_of([&] {
          contiguous.append(k, k);
          contiguous.append(1, k.all()[1], k.all()[1]);
          contiguous.truncate(1, 2);
          contiguous.clear();
          for (int i = 0; i < 4; ++i) ring.append(k, k);
          ring.clear();
          paged.append(k, k);
          paged.free(1);
          paged.fork(0, 1);
          paged.append(k, k);
          paged.truncate(0, 1);
          paged.clear();
        }) == 0);
}

TEST_CASE("an owning cache begins with rows that nobody sees") {
  heed::contiguous_cache<heed::int8_rows> cache({.batch = 0, .kv_heads = 0, .capacity = 0, .features = 3});
  CHECK((cache.batch() == 0 && cache.kv_heads() == 0 && cache.capacity() == 0 && cache.value_features() == 3));
  const heed::tensor<float, 4> none({0, 0, 5, 3});
  CHECK_NOTHROW(cache.append(none, none));
}
