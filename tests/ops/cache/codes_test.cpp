#include "ops/cache/twin.hpp"
#include "support/arch.hpp"
#include "support/grid.hpp"

using namespace cache_test;

namespace {

/// Three rows of a format, from given codes, in a cache that ends with the last of them.
template <class Rows, class T>
bool reads_given_codes(index_t features, index_t group, code_offset offset, random_engine& random) {
  const Rows format{group, offset};
  heed::contiguous_cache<Rows> cache({.capacity = 3, .features = features}, format, format);
  fresh_rows<Rows> k({1, 1, 3, features}, format, false, random), v({1, 1, 3, features}, format, false, random);
  k.with([&](const auto& keys) { v.with([&](const auto& values) { cache.append(keys, values); }); });
  history tokens;
  for (index_t t = 0; t < 3; ++t) tokens.push_back({{k.at(0, 0, t)}, {v.at(0, 0, t)}});
  bool right = true;
  support::for_each_arch([&](auto arch) {
    right = right && source_holds<T, decltype(arch)>(cache.piece(0, 0, 0), tokens, 0, 3, 0, features, features, random);
  });
  return right;
}

}  // namespace

TEMPLATE_TEST_CASE("every width, group and offset of coded rows, for every instruction set", "", heed::int8_rows,
                   heed::int4_rows, heed::int4_half32_rows) {
  random_engine random(3);
  const index_t step = support::small_grid() ? 7 : 1;
  for (index_t features = 1; features <= 130; features += step)
    for (const index_t group : {0, 1, 5, 8, 12, 16, 32, 64, 128, 200})
      for (const code_offset offset : {code_offset::none, code_offset::zero, code_offset::minimum}) {
        CAPTURE(features, group, static_cast<int>(offset));
        REQUIRE(reads_given_codes<TestType, float>(features, group, offset, random));
      }
}

TEST_CASE("coded rows may be read as double") {
  random_engine random(4);
  for (const index_t features : {1, 8, 33}) {
    CHECK(reads_given_codes<heed::int8_rows, double>(features, 8, code_offset::zero, random));
    CHECK(reads_given_codes<heed::int4_rows, double>(features, 0, code_offset::none, random));
    CHECK(reads_given_codes<heed::int4_half32_rows, double>(features, 16, code_offset::none, random));
  }
}

TEST_CASE("8-bit codes of numbers worked out by hand") {
  const float x[] = {0.5f, 1.5f, -127, 100.25f};
  const view<const float, 4> rows(x, {1, 1, 1, 4});
  std::int8_t k_codes[4], v_codes[4];
  float k_scale, v_scales[2], zeros[2];
  heed::contiguous_cache<heed::int8_rows> cache(
      {.capacity = 1, .features = 4}, {{k_codes, {1, 1, 1, 4}}, {&k_scale, {1, 1, 1, 1}}},
      {{v_codes, {1, 1, 1, 4}}, {v_scales, {1, 1, 1, 2}}, {zeros, {1, 1, 1, 2}}}, {},
      {.group = 2, .offset = code_offset::zero});
  cache.append(rows, rows);
  // Halves go to the even code.
  CHECK(k_scale == 1);
  CHECK((k_codes[0] == 0 && k_codes[1] == 2 && k_codes[2] == -127 && k_codes[3] == 100));
  CHECK((v_scales[0] == 1.5f / 127 && v_scales[1] == 1 && zeros[0] == 0 && zeros[1] == 0));
  CHECK((v_codes[0] == 42 && v_codes[1] == 127 && v_codes[2] == -127 && v_codes[3] == 100));
}

TEST_CASE("4-bit codes of numbers worked out by hand, in both orders") {
  const float x[] = {1, -7, 2.5f};
  const view<const float, 4> rows(x, {1, 1, 1, 3});
  std::uint8_t k_codes[2], v_codes[16];
  float k_scale, v_scale, k_minimum;
  const heed::coded_view<std::uint8_t> k{{k_codes, {1, 1, 1, 2}}, {&k_scale, {1, 1, 1, 1}}, {&k_minimum, {1, 1, 1, 1}}};
  heed::contiguous_cache<heed::int4_rows> pairs({.capacity = 1, .features = 3}, k,
                                                {{v_codes, {1, 1, 1, 2}}, {&v_scale, {1, 1, 1, 1}}},
                                                {.offset = code_offset::minimum});
  pairs.append(rows, rows);
  CHECK((k_scale == 1 && k_minimum == -8));
  // 9, 1 | 10
  CHECK((k_codes[0] == 0x19 && k_codes[1] == 0x0a));

  float y[18] = {1, -7, 2.5f};
  y[16] = 3;
  const view<const float, 4> long_rows(y, {1, 1, 1, 18});
  std::uint8_t blocks[2][16];
  float scales[2];
  heed::contiguous_cache<heed::int4_half32_rows> halves({.capacity = 1, .features = 18},
                                                        {{blocks[0], {1, 1, 1, 16}}, {&scales[0], {1, 1, 1, 1}}},
                                                        {{blocks[1], {1, 1, 1, 16}}, {&scales[1], {1, 1, 1, 1}}});
  halves.append(long_rows, long_rows);
  // Element 16 is the high half of byte 0, element 17 of byte 1; the rest of the block is 0.
  CHECK((blocks[0][0] == 0xb9 && blocks[0][1] == 0x81 && blocks[0][2] == 0x0a && blocks[0][3] == 0x08));
}
