#include "ops/cache/layouts.hpp"
#include "support/grid.hpp"

using namespace cache_test;

static_assert(heed::key_value_cache<heed::contiguous_cache<float>>);
static_assert(heed::key_value_cache<heed::contiguous_cache<heed::int4_rows>>);
static_assert(heed::key_value_cache<heed::ring_cache<heed::bfloat16>>);
static_assert(heed::key_value_cache<heed::ring_cache<heed::int8_rows>>);
static_assert(heed::key_value_cache<heed::paged_cache<double>>);
static_assert(heed::key_value_cache<heed::paged_cache<heed::int4_half32_rows>>);
static_assert(heed::key_value_cache<heed::paged_view<heed::float16>>);
static_assert(heed::key_value_cache<heed::paged_view<heed::int8_rows>>);

namespace {

/// Appends random rows to all sequences, or to one, and to the twin; or sees that it fails and changes nothing.
template <class Rows, class Subject>
void append(Subject& x, random_engine& random) {
  const bool to_all = x.s.B == 0 || draw(random, 0, 1) == 0;
  const index_t first = to_all ? 0 : draw(random, 0, x.s.B - 1), last = to_all ? x.s.B : first + 1;
  const index_t rows = draw(random, 0, 7);
  const bool numbers = draw(random, 0, 1) == 0 || std::is_same_v<Rows, float>;
  fresh_rows<Rows> k({last - first, x.s.G, rows, x.s.D}, x.key_format, numbers, random);
  fresh_rows<Rows> v({last - first, x.s.G, rows, x.s.E}, x.value_format, numbers, random);
  const auto call = [&] {
    k.with([&](const auto& key_rows) {
      v.with([&](const auto& value_rows) {
        if (to_all)
          x.cache.append(key_rows, value_rows);
        else
          x.cache.append(first, key_rows[0], value_rows[0]);
      });
    });
  };
  CAPTURE(to_all, first, rows, numbers);
  if (!x.fits(first, last, rows)) {
    const auto before = state_of(x);
    CHECK_THROWS_AS(call(), heed::invalid_argument);
    CHECK(state_of(x) == before);
    return;
  }
  REQUIRE_NOTHROW(call());
  x.appended(first, last, rows);
  for (index_t b = first; b < last; ++b)
    for (index_t t = 0; t < rows; ++t) {
      token fresh;
      for (index_t g = 0; g < x.s.G; ++g) {
        fresh.k.push_back(k.at(b - first, g, t));
        fresh.v.push_back(v.at(b - first, g, t));
      }
      x.sequence(b).push_back(std::move(fresh));
    }
}

template <class Rows, template <class> class Layout>
void replay(unsigned seed) {
  random_engine random(seed);
  const shape s{draw(random, 0, 3), draw(random, 0, 3), draw(random, 1, 70), draw(random, 1, 40)};
  Layout<Rows> x(s, random);
  CAPTURE(seed, s.B, s.G, s.D, s.E);
  for (int step = 0; step < 25; ++step) {
    CAPTURE(step);
    if (draw(random, 0, 2) > 0)
      append<Rows>(x, random);
    else
      x.another_operation(random);
    x.check_accounts();
    x.poison();
    REQUIRE(shows_its_tokens(x, random));
    REQUIRE((x.memory.k.intact() && x.memory.v.intact()));
  }
}

template <class Rows>
void replay_all() {
  for (unsigned seed = 1, count = support::small_grid() ? 4 : 40; seed <= count; ++seed) {
    replay<Rows, contiguous>(seed);
    replay<Rows, ring>(seed);
    replay<Rows, paged>(seed);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("caches of plain rows hold what a list of tokens holds, whatever happens to them", "", float, double,
                   heed::bfloat16, heed::float16) {
  replay_all<TestType>();
}

TEMPLATE_TEST_CASE("caches of coded rows hold what a list of tokens holds, whatever happens to them", "",
                   heed::int8_rows, heed::int4_rows, heed::int4_half32_rows) {
  replay_all<TestType>();
}
