#include "ops/ring/ring.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

#include <heed/mod/compose.hpp>
#include <heed/mod/document.hpp>
#include <heed/mod/masks.hpp>
#include <heed/ops/position/rotary.hpp>
#include <heed/ops/ring/work.hpp>

using namespace ring_test;

TEST_CASE("layouts give every token to one rank, in ascending order") {
  for (int ranks = 1; ranks <= 8; ++ranks)
    for (index_t N = 0; N <= 40; ++N)
      for (const deal how : all_deals) {
        const owned_layout dealt = deal_out(how, N, ranks);
        CHECK(dealt.layout.tokens() == N);
        CHECK(dealt.layout.ranks() == ranks);
        std::vector<int> met(static_cast<std::size_t>(N), 0);
        for (int r = 0; r < ranks; ++r)
          for (index_t a = 0; a < dealt.layout.count(r); ++a) {
            const index_t t = dealt.layout.token(r, a);
            if (t < 0 || t >= N || (a > 0 && t <= dealt.layout.token(r, a - 1))) FAIL("not ascending");
            ++met[static_cast<std::size_t>(t)];
          }
        CHECK(std::all_of(met.begin(), met.end(), [](int n) { return n == 1; }));
      }
}

TEST_CASE("layouts are those of the papers") {
  const auto tokens_of = [](const token_layout& l, int r) {
    std::vector<index_t> all;
    for (index_t a = 0; a < l.count(r); ++a) all.push_back(l.token(r, a));
    return all;
  };
  CHECK(tokens_of(heed::contiguous_layout(18, 4), 1) == std::vector<index_t>{4, 5, 6, 7, 8});
  CHECK(tokens_of(heed::striped_layout(18, 4), 1) == std::vector<index_t>{1, 5, 9, 13, 17});
  CHECK(tokens_of(heed::zigzag_layout(16, 4), 1) == std::vector<index_t>{2, 3, 12, 13});
  CHECK(tokens_of(heed::zigzag_layout(18, 4), 0) == std::vector<index_t>{0, 1, 15, 16, 17});
}

TEST_CASE("what was dealt out comes back, of any rank and strides") {
  support::random_engine random(1);
  for (const deal how : all_deals) {
    const owned_layout dealt = deal_out(how, 23, 5);
    const auto stored = support::normal_tensor<float, 4>({2, 23, 3, 4}, random);
    const view<const float, 4> x = stored.all().swap_axes(1, 2);
    auto back = tensor<float, 4>::full({2, 3, 23, 4}, -1);
    tensor<int, 1> ids({23}), ids_back({23});
    tensor<float, 2> mask({2, 23}), mask_back({2, 23});
    std::iota(ids.begin(), ids.end(), 5);
    std::iota(mask.begin(), mask.end(), 1.0f);
    for (int r = 0; r < 5; ++r) {
      const index_t n = dealt.layout.count(r);
      tensor<float, 4> part({2, 3, n, 4});
      heed::to_layout(x, part, dealt.layout, r);
      heed::from_layout(part, back, dealt.layout, r);
      tensor<int, 1> some({n});
      heed::to_layout(ids, some, dealt.layout, r);
      for (index_t a = 0; a < n; ++a) CHECK(some(a) == 5 + dealt.layout.token(r, a));
      heed::from_layout(some, ids_back, dealt.layout, r);
      tensor<float, 2> of_batch({2, n});
      heed::to_layout(mask, of_batch, dealt.layout, r);
      heed::from_layout(of_batch, mask_back, dealt.layout, r);
    }
    CHECK(support::same_bits<float, 4>(x, back));
    CHECK(support::same_bits<int, 1>(ids, ids_back));
    CHECK(support::same_bits<float, 2>(mask, mask_back));
  }
}

TEST_CASE("positions travel with tokens: turning them before or after they are dealt out agrees") {
  support::random_engine random(1);
  const auto x = support::normal_tensor<float, 4>({1, 2, 23, 8}, random);
  tensor<float, 4> turned({1, 2, 23, 8});
  tensor<std::int32_t, 1> positions({23});
  std::iota(positions.begin(), positions.end(), 5);
  heed::rotary_forward(x, positions, turned);
  for (const deal how : all_deals) {
    const owned_layout dealt = deal_out(how, 23, 5);
    for (int r = 0; r < 5; ++r) {
      const index_t n = dealt.layout.count(r);
      tensor<float, 4> part({1, 2, n, 8}), part_of_turned({1, 2, n, 8});
      tensor<std::int32_t, 1> own_positions({n});
      heed::to_layout(x, part, dealt.layout, r);
      heed::to_layout(positions, own_positions, dealt.layout, r);
      heed::rotary_forward(part, own_positions, part);
      heed::to_layout(turned, part_of_turned, dealt.layout, r);
      CHECK(support::same_bits<float, 4>(part, part_of_turned));
    }
  }
}

TEST_CASE("bad layouts and shards are refused") {
  using support::check_refusal;
  check_refusal("striped_layout", {"ranks", "0"}, [] { heed::striped_layout(4, 0); });
  check_refusal("zigzag_layout", {"tokens", "-1"}, [] { heed::zigzag_layout(-1, 2); });
  const std::vector<int> down{0, 5, 4}, late{1, 2}, starts{0, 2, 4}, twice{0, 1, 1, 3}, beyond{0, 1, 2, 4},
      back{1, 0, 2, 3}, few{0, 1, 2};
  check_refusal("contiguous_layout", {"cuts", "4"}, [&] { heed::contiguous_layout(down); });
  check_refusal("contiguous_layout", {"cuts", "1"}, [&] { heed::contiguous_layout(late); });
  check_refusal("listed_layout", {"tokens", "once", "1"}, [&] { heed::listed_layout(starts, twice); });
  check_refusal("listed_layout", {"tokens", "below N", "4"}, [&] { heed::listed_layout(starts, beyond); });
  check_refusal("listed_layout", {"tokens", "ascending", "0"}, [&] { heed::listed_layout(starts, back); });
  check_refusal("listed_layout", {"tokens", "3"}, [&] { heed::listed_layout(starts, few); });
  tensor<int, 1> whole({10}), part({5}), other({4});
  const token_layout l = heed::striped_layout(10, 2);
  check_refusal("to_layout", {"shard.extent(0)", "5", "4"}, [&] { heed::to_layout(whole, other, l, 0); });
  check_refusal("to_layout", {"whole.extent(0)", "10"}, [&] { heed::to_layout(part, part, l, 0); });
  check_refusal("to_layout", {"rank", "2"}, [&] { heed::to_layout(whole, part, l, 2); });
  check_refusal("from_layout", {"layout", "none"}, [&] { heed::from_layout(part, whole, {}, 0); });
}

namespace {

std::vector<std::vector<index_t>> work_table(const token_layout& l) {
  std::vector<std::vector<index_t>> table;
  for (int r = 0; r < l.ranks(); ++r) {
    table.emplace_back();
    for (int s = 0; s < l.ranks(); ++s) table.back().push_back(heed::ring_work(r, s, {.layout = l}, heed::causal{}));
  }
  return table;
}

/// By looking at every pair.
template <class Mask>
index_t counted(const token_layout& q, const token_layout& kv, int rank, int step, index_t offset, const Mask& mask) {
  const int source = (rank + q.ranks() - step) % q.ranks();
  index_t sum = 0;
  for (index_t a = 0; a < q.count(rank); ++a)
    for (index_t b = 0; b < kv.count(source); ++b)
      sum += mask(heed::position{0, 0, int(q.token(rank, a) + offset), int(kv.token(source, b))}) ? 1 : 0;
  return sum;
}

}  // namespace

TEST_CASE("work is that of the tables") {
  using rows = std::vector<std::vector<index_t>>;
  CHECK(work_table(heed::contiguous_layout(16, 4)) ==
        rows{{10, 0, 0, 0}, {10, 16, 0, 0}, {10, 16, 16, 0}, {10, 16, 16, 16}});
  CHECK(work_table(heed::striped_layout(16, 4)) ==
        rows{{10, 6, 6, 6}, {10, 10, 6, 6}, {10, 10, 10, 6}, {10, 10, 10, 10}});
  CHECK(work_table(heed::zigzag_layout(16, 4)) == rows{{10, 8, 8, 8}, {10, 8, 8, 8}, {10, 8, 8, 8}, {10, 8, 8, 8}});
  const auto totals = [](const token_layout& l) {
    std::vector<index_t> sums;
    for (const auto& row : work_table(l)) sums.push_back(std::accumulate(row.begin(), row.end(), index_t(0)));
    return sums;
  };
  CHECK(totals(heed::contiguous_layout(18, 4)) == std::vector<index_t>{10, 35, 46, 80});
  CHECK(totals(heed::striped_layout(18, 4)) == std::vector<index_t>{45, 50, 36, 40});
  CHECK(totals(heed::zigzag_layout(18, 4)) == std::vector<index_t>{54, 36, 36, 45});
}

TEST_CASE("work of even shards follows the formulas") {
  for (const index_t P : {1, 2, 3, 5, 8})
    for (const index_t c : {2, 4, 10}) {
      const int ranks = static_cast<int>(P);
      const auto contiguous = work_table(heed::contiguous_layout(P * c, ranks));
      const auto striped = work_table(heed::striped_layout(P * c, ranks));
      const auto zigzag = work_table(heed::zigzag_layout(P * c, ranks));
      for (std::size_t R = 0; R < static_cast<std::size_t>(P); ++R)
        for (std::size_t s = 0; s < static_cast<std::size_t>(P); ++s) {
          const bool before = s <= R;
          CHECK(contiguous[R][s] == (s == 0 ? c * (c + 1) / 2 : before ? c * c : 0));
          CHECK(striped[R][s] == (before ? c * (c + 1) / 2 : c * (c - 1) / 2));
          CHECK(zigzag[R][s] == (s == 0 ? c * (c + 1) / 2 : c * c / 2));
        }
    }
}

TEST_CASE("work counts the pairs of any mask, window and layouts") {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 60; ++i) ids.push_back(i / 13);
  const auto mask = heed::causal{} & heed::document{ids};
  const auto odd = [](const heed::position& at) { return (at.q * 7 + at.kv) % 3 == 0; };
  for (const deal q : all_deals)
    for (const deal kv : all_deals) {
      const owned_layout ql = deal_out(q, 50, 3), kl = deal_out(kv, 60, 3);
      for (int r = 0; r < 3; ++r)
        for (int s = 0; s < 3; ++s) {
          const heed::ring_work_options o{.layout = ql.layout, .kv_layout = kl.layout};
          CHECK(heed::ring_work(r, s, o, mask) == counted(ql.layout, kl.layout, r, s, 10, mask));
          CHECK(heed::ring_work(r, s, o, odd) == counted(ql.layout, kl.layout, r, s, 10, odd));
          const heed::ring_work_options w{
              .layout = ql.layout, .kv_layout = kl.layout, .window_left = 9, .window_right = 2, .q_offset = 4};
          CHECK(heed::ring_work(r, s, w) == counted(ql.layout, kl.layout, r, s, 4, heed::window{9, 2}));
        }
    }
}
