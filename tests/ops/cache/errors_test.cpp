#include "ops/cache/twin.hpp"

#include <functional>
#include <string>

using namespace cache_test;
using Catch::Matchers::ContainsSubstring;
using heed::tensor;

namespace {

/// The call throws, and the message names each of the parts.
void rejects(const std::function<void()>& call, std::initializer_list<std::string> parts) {
  try {
    call();
    FAIL("nothing was thrown");
  } catch (const heed::invalid_argument& error) {
    for (const std::string& part : parts) CHECK_THAT(std::string(error.what()), ContainsSubstring(part));
  }
}

constexpr float infinity = std::numeric_limits<float>::infinity();

/// [2,3,T,4] of ones.
tensor<float, 4> ones(index_t rows = 2) { return tensor<float, 4>::full({2, 3, rows, 4}, 1.0f); }

}  // namespace

TEST_CASE("sizes that no cache can have") {
  using contiguous = heed::contiguous_cache<float>;
  rejects([] { contiguous({.batch = -1, .features = 1}); }, {"heed::contiguous_cache:", "sizes.batch", "-1"});
  rejects([] { contiguous({.kv_heads = -2, .features = 1}); }, {"sizes.kv_heads", "-2"});
  rejects([] { contiguous({.capacity = -3, .features = 1}); }, {"sizes.capacity", "-3"});
  rejects([] { contiguous({.capacity = 3}); }, {"sizes.features", "at least 1", "0"});
  rejects([] { contiguous({.features = 1, .value_features = 0}); }, {"sizes.value_features"});
  rejects([] { heed::contiguous_cache<heed::int8_rows>({.features = 4}, {.group = -1}); }, {"keys.group", "-1"});
  rejects([] { heed::contiguous_cache<heed::int4_rows>({.features = 4}, {}, {.group = -1}); }, {"values.group"});
  rejects([] { heed::ring_cache<float>({.sinks = -1, .window = 2, .features = 1}); },
          {"heed::ring_cache:", "sizes.sinks"});
  rejects([] { heed::ring_cache<float>({.features = 1}); }, {"sizes.window", "1 to 2^30"});
  rejects([] { heed::paged_cache<float>({.pages = -1, .features = 1}); }, {"heed::paged_cache:", "sizes.pages"});
  rejects([] { heed::paged_cache<float>({.pages = index_t(1) << 31, .features = 1}); }, {"sizes.pages", "2^31 - 1"});
  rejects([] { heed::paged_cache<float>({.page_size = 0, .features = 1}); }, {"sizes.page_size"});
  for (const index_t list : {-1, 6})
    rejects([=] { heed::paged_cache<float>({.pages = 5, .features = 1, .sequence_pages = list}); },
            {"sizes.sequence_pages", "0 to sizes.pages"});
}

TEST_CASE("memory that is not what the sizes say") {
  tensor<float, 4> k({2, 3, 5, 4}), v({2, 3, 5, 6}), other({2, 3, 6, 4});
  const heed::contiguous_sizes sizes{2, 3, 5, 4, 6};
  using contiguous = heed::contiguous_cache<float>;
  CHECK_NOTHROW(contiguous(sizes, k, v));
  rejects([&] { contiguous(sizes, other, v); }, {"k.extent(2)", "5", "6"});
  rejects([&] { contiguous(sizes, k, k); }, {"v.extent(3)", "6", "4"});
  rejects([&] { contiguous({2, 3, 5, 4}, k, k); }, {"v: expected no overlap with k"});
  rejects([&] { contiguous(sizes, k, view<float, 4>(nullptr, {2, 3, 5, 6})); }, {"v: expected data"});
  rejects([&] { contiguous(sizes, k.all().slice(0, 0, 1).broadcast(0, 2), v); }, {"k:", "broadcast"});
  rejects([&] { contiguous(sizes, view<float, 4>(k.data(), {2, 3, 5, 4}, {60, 20, 4, 2}), v); }, {"k:", "stride 1"});
  rejects([&] { heed::ring_cache<float>({2, 3, 1, 5, 4, 6}, k, v); }, {"heed::ring_cache:", "k.extent(2)", "6", "5"});
  rejects([&] { heed::paged_cache<float>({.kv_heads = 3, .pages = 2, .page_size = 4, .features = 4}, k, k); },
          {"heed::paged_cache:", "k.extent(2)", "4"});

  tensor<std::int8_t, 4> codes({2, 3, 5, 4}), more_codes({2, 3, 5, 4});
  tensor<float, 4> scales({2, 3, 5, 2}), more_scales({2, 3, 5, 2}), offsets({2, 3, 5, 2});
  using coded = heed::contiguous_cache<heed::int8_rows>;
  const heed::int8_rows pairs{.group = 2}, with_zero{.group = 2, .offset = code_offset::zero};
  const heed::contiguous_sizes square{2, 3, 5, 4};
  CHECK_NOTHROW(coded(square, {codes, scales}, {more_codes, more_scales}, pairs, pairs));
  rejects([&] { coded(square, {codes, scales}, {more_codes, more_scales}, {}, pairs); }, {"k.scales.extent(3)", "1"});
  rejects([&] { coded(square, {codes, scales}, {more_codes, more_scales}, pairs, with_zero); }, {"v.offsets"});
  rejects([&] { coded(square, {codes, scales, offsets}, {more_codes, more_scales}, pairs, pairs); },
          {"k.offsets: expected none"});
  rejects([&] { coded(square, {codes, scales}, {more_codes, scales}, pairs, pairs); },
          {"v.scales: expected no overlap with k.scales"});
  tensor<std::uint8_t, 4> nibbles({2, 3, 5, 4});
  rejects([&] { heed::contiguous_cache<heed::int4_rows>(square, {nibbles, scales}, {nibbles, scales}, {2}, {2}); },
          {"k.codes.extent(3)", "2 (bytes of a row)", "4"});
}

TEST_CASE("rows that do not fit the cache") {
  heed::contiguous_cache<float> cache({.batch = 2, .kv_heads = 3, .capacity = 5, .features = 4});
  const auto k = ones();
  const tensor<float, 4> longer({2, 3, 3, 4}), wider({2, 3, 2, 5}), more({3, 3, 2, 4}), heads({2, 1, 2, 4});
  rejects([&] { cache.append(more, k); }, {"heed::contiguous_cache::append:", "k.extent(0)", "2 (as the cache)", "3"});
  rejects([&] { cache.append(heads, k); }, {"k.extent(1)", "3 (G, as the cache)"});
  rejects([&] { cache.append(k, longer); }, {"v.extent(2)", "2 (T, as k)", "3"});
  rejects([&] { cache.append(wider, k); }, {"k.extent(3)", "4 (features, as the cache)", "5"});
  rejects([&] { cache.append(0, k.all()[0], wider.all()[0]); }, {"v.extent(2)", "4 (features, as the cache)"});
  rejects([&] { cache.append(0, longer.all()[0], k.all()[0]); }, {"v.extent(1)", "3 (T, as k)"});
  for (const index_t b : {-1, 2})
    rejects([&] { cache.append(b, k.all()[0], k.all()[0]); },
            {"b: expected a sequence of the cache", std::to_string(b)});
  rejects([&] { cache.append(view<const float, 4>(nullptr, {2, 3, 2, 4}), k); }, {"k: expected data"});
  rejects([&] { cache.append(view<const float, 4>(k.data(), {2, 3, 2, 4}, {0, 0, 0, 2}), k); }, {"k:", "stride 1"});
  CHECK((cache.end(0) == 0 && cache.end(1) == 0));

  tensor<float, 4> mine({2, 3, 5, 4}), values({2, 3, 5, 4});
  heed::contiguous_cache<float> lent({.batch = 2, .kv_heads = 3, .capacity = 5, .features = 4}, mine, values);
  rejects([&] { lent.append(k, values.all().slice(2, 0, 2)); }, {"v: expected no overlap with the cache"});

  heed::contiguous_cache<heed::int8_rows> zeros({.batch = 2, .kv_heads = 3, .capacity = 5, .features = 4},
                                                {.offset = code_offset::zero});
  const tensor<std::int8_t, 4> codes({2, 3, 2, 4});
  const auto scales = tensor<float, 4>::full({2, 3, 2, 1}, 1.0f);
  using rows = heed::coded_view<const std::int8_t>;
  rejects([&] { zeros.append(rows{codes, scales}, rows{codes, scales}); }, {"k.offsets"});
  rejects([&] { zeros.append(rows{codes, scales, scales}, rows{codes, scales, scales}); },
          {"v.offsets: expected none"});
  CHECK_NOTHROW(zeros.append(rows{codes, scales, scales}, rows{codes, scales}));
}

TEMPLATE_TEST_CASE("no coded row of numbers that are not finite", "", heed::int8_rows, heed::int4_rows) {
  heed::ring_cache<TestType> cache({.batch = 2, .kv_heads = 3, .window = 5, .features = 4});
  for (const float bad : {support::quiet_nan<float>, infinity, -infinity}) {
    auto k = ones();
    k(1, 2, 1, 3) = bad;
    rejects([&] { cache.append(k, ones()); }, {"heed::ring_cache::append:", "k: expected finite numbers"});
    rejects([&] { cache.append(ones(), k); }, {"v: expected finite numbers"});
    const tensor<typename TestType::code, 4> codes({2, 3, 2, std::is_same_v<TestType, heed::int8_rows> ? 4 : 2});
    auto scales = tensor<float, 4>::full({2, 3, 2, 1}, 1.0f), bad_scales = scales;
    bad_scales(0, 0, 1, 0) = bad;
    using rows = heed::coded_view<const typename TestType::code>;
    rejects([&] { cache.append(rows{codes, scales}, rows{codes, bad_scales}); }, {"v.scales: expected finite numbers"});
  }
  CHECK((cache.end(0) == 0 && cache.end(1) == 0));
}

TEST_CASE("plain rows take numbers that are not finite") {
  heed::contiguous_cache<float> cache({.capacity = 1, .features = 1});
  const auto k = tensor<float, 4>::full({1, 1, 1, 1}, infinity);
  cache.append(k, k);
  CHECK(*cache.piece(0, 0, 0).keys(0, 1).data == infinity);
}

TEST_CASE("more tokens than there is room for") {
  heed::contiguous_cache<float> contiguous({.batch = 2, .kv_heads = 3, .capacity = 3, .features = 4});
  contiguous.append(1, ones().all()[1], ones().all()[1]);
  rejects([&] { contiguous.append(ones(), ones()); }, {"k (T)", "at most 1, the room left in sequence 1", "2"});
  CHECK((contiguous.end(0) == 0 && contiguous.end(1) == 2));

  heed::ring_cache<float> ring({.batch = 2, .kv_heads = 3, .window = 2, .features = 4});
  rejects([&] { ring.append(ones(3), ones(3)); }, {"k (T)", "at most 2, the window; append more in pieces", "3"});

  heed::paged_cache<float> paged(
      {.batch = 2, .kv_heads = 3, .pages = 3, .page_size = 2, .features = 4, .sequence_pages = 2});
  rejects([&] { paged.append(ones(4), ones(4)); }, {"k (T)", "rows for 3 free pages", "rows for 4"});
  rejects([&] { paged.append(ones(5), ones(5)); }, {"k (T)", "at most 4, the room left in the 2 pages of sequence 0"});
  CHECK(paged.free_pages() == 3);
}

TEST_CASE("sequences and lengths that there are not") {
  heed::contiguous_cache<float> contiguous({.batch = 2, .kv_heads = 3, .capacity = 3, .features = 4});
  contiguous.append(ones(), ones());
  rejects([&] { contiguous.truncate(2, 0); }, {"heed::contiguous_cache::truncate:", "b:", "2"});
  rejects([&] { contiguous.truncate(0, 3); }, {"length", "0 to the sequence's end", "3"});
  rejects([&] { contiguous.truncate(0, -1); }, {"length", "-1"});

  heed::ring_cache<float> ring({.batch = 2, .kv_heads = 3, .window = 2, .features = 4});
  rejects([&] { ring.clear(-1); }, {"heed::ring_cache::clear:", "b:", "-1"});

  heed::paged_cache<float> paged({.batch = 2, .kv_heads = 3, .pages = 3, .page_size = 2, .features = 4});
  paged.append(0, ones().all()[0], ones().all()[0]);
  rejects([&] { paged.truncate(0, 3); }, {"heed::paged_cache::truncate:", "length", "3"});
  rejects([&] { paged.free(2); }, {"heed::paged_cache::free:", "b:", "2"});
  rejects([&] { paged.fork(2, 1); }, {"heed::paged_cache::fork:", "from:", "2"});
  rejects([&] { paged.fork(0, -1); }, {"to:", "-1"});
  rejects([&] { paged.fork(0, 0); }, {"to: expected an empty sequence", "2"});
  rejects([&] { paged.fork(0, 1, 3); }, {"length: expected 0 to the end of `from`", "3"});
  CHECK((paged.end(0) == 2 && paged.end(1) == 0));
}

TEST_CASE("tables of a paged view that do not fit their pool") {
  const tensor<float, 4> k({2, 1, 3, 4}), v({2, 1, 3, 4});
  const auto make = [&](std::vector<std::int32_t> indptr, std::vector<std::int32_t> indices,
                        std::vector<std::int32_t> last) {
    const auto all = [](const std::vector<std::int32_t>& of) {
      return view<const std::int32_t, 1>(of.data(), {static_cast<index_t>(of.size())});
    };
    heed::paged_view<float>({1, 2, 3, 4}, k, v, {all(indptr), all(indices), all(last)});
  };
  CHECK_NOTHROW(make({0, 2, 2, 3}, {0, 1, 1}, {3, 0, 1}));
  rejects([&] { make({0, 2}, {0, 1}, {1, 1}); }, {"heed::paged_view:", "table.indptr.extent(0)", "3"});
  rejects([&] { make({1, 2}, {0, 1}, {1}); }, {"table.indptr[0]", "0", "1"});
  rejects([&] { make({0, 2, 1}, {0}, {1, 1}); }, {"table.indptr", "never fall"});
  rejects([&] { make({0, 2}, {0}, {1}); }, {"table.indices.extent(0)", "2"});
  for (const std::int32_t page : {-1, 2})
    rejects([&] { make({0, 2}, {0, page}, {1}); }, {"table.indices", std::to_string(page)});
  for (const std::int32_t last : {0, 4})
    rejects([&] { make({0, 2}, {0, 1}, {last}); }, {"table.last_page_len", std::to_string(last)});
  rejects([&] { heed::paged_view<float>({1, 3, 3, 4}, k, v, {}); }, {"k.extent(0)", "3", "2"});
  rejects([&] { heed::paged_view<float>({1, 2, 3, 4}, k, v, {}); }, {"table.indptr"});
}
