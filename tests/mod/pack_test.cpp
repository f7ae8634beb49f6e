// Generic mods on packs answer as they do on numbers, lane by lane.
#include <heed/mod.hpp>
#include <heed/simd/math.hpp>

#include "mod/rectangles.hpp"

#include <climits>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace {

template <class T>
using at_pack = heed::basic_position<heed::index_pack<T>>;

template <class T, class Mask>
void same_mask(const Mask& mask) {
  STATIC_REQUIRE(heed::generic_mask<Mask, heed::index_pack<T>>);
  constexpr int lanes = heed::pack<T>::lanes;
  for (int b = 0; b < 2; ++b)
    for (int q = -20; q < 70; q += 3)
      for (int kv = -3; kv < 50; ++kv) {
        const heed::mask_pack<T> visible(mask(at_pack<T>{b, 0, heed::index_pack<T>::counting_from(q), kv}));
        T lane[lanes];
        select(visible, heed::pack<T>(1), heed::pack<T>(0)).store(lane);
        for (int i = 0; i < lanes; ++i)
          if ((lane[i] == 1) != static_cast<bool>(mask(heed::position{b, 0, q + i, kv}))) {
            CAPTURE(b, q, kv, i);
            FAIL("a lane disagrees");
          }
      }
}

template <class T, class Mod>
void same_score(const Mod& mod) {
  STATIC_REQUIRE(heed::generic_score<Mod, heed::pack<T>, heed::index_pack<T>>);
  constexpr int lanes = heed::pack<T>::lanes;
  const double tolerance = std::is_same_v<T, float> ? 1e-6 : 1e-14;
  T score[lanes], lane[lanes];
  for (int i = 0; i < lanes; ++i) score[i] = T(0.25) * T(i) - T(1.3);
  for (int h = 0; h < 4; ++h)
    for (int q = -20; q < 300; q += 13)
      for (int kv = 0; kv < 60; kv += 7) {
        const heed::pack<T> z(
            mod(heed::pack<T>::load(score), at_pack<T>{0, h, heed::index_pack<T>::counting_from(q), kv}));
        z.store(lane);
        for (int i = 0; i < lanes; ++i) {
          const double expected = static_cast<double>(mod(score[i], heed::position{0, h, q + i, kv}));
          if (!(std::abs(lane[i] - expected) <= tolerance * (1 + std::abs(expected)))) {
            CAPTURE(h, q, kv, i, lane[i], expected);
            FAIL("a lane disagrees");
          }
        }
      }
}

/// The mask that docs/mods.md writes: the query's own block of 64, and every other one before it.
struct checkerboard : heed::mask_base {
  template <class Index>
  auto operator()(const heed::basic_position<Index>& at) const {
    const int block = heed::floor_div(at.kv, 64) * 64;
    const auto distance = at.q - heed::floor_mod(at.q, 64) - block;
    return distance >= 0 && heed::floor_mod(distance, 128) == 0;
  }

  heed::tile_class classify(int b, int h, int q0, int q1, int k0, int k1) const {
    if (q1 - 1 < heed::floor_div(k0, 64) * 64) return heed::tile_class::empty;
    const bool one_block = heed::floor_div(q0, 64) == heed::floor_div(q1 - 1, 64) &&
                           heed::floor_div(k0, 64) == heed::floor_div(k1 - 1, 64);
    if (!one_block) return heed::tile_class::partial;
    return (*this)(heed::position{b, h, q0, k0}) ? heed::tile_class::full : heed::tile_class::empty;
  }

  heed::key_range keys(int, int, int, int q1) const { return {INT_MIN, (heed::floor_div(q1 - 1, 64) + 1) * 64}; }
};

}  // namespace

TEST_CASE("a mask type of one's own") {
  const auto visible = [](int, int, int q, int kv) {
    const auto block = [](int x) { return static_cast<int>(std::floor(x / 64.0)); };
    return block(kv) <= block(q) && (block(q) - block(kv)) % 2 == 0;
  };
  heed_test::check_mask(checkerboard{}, visible, {-70, 200}, {.empty = false, .full = false, .hull = false});
  same_mask<float>(heed::causal{} & checkerboard{});
}

// Lanes of double are 64-bit integers, so what differs there is repeated for double; the rest would say the same twice.
TEMPLATE_TEST_CASE("masks on packs", "", float, double) {
  using T = TestType;
  const std::vector<std::int32_t> ids{0, 0, 1, 1, 1, 4, 4, 4, 4, 4, 9, 9, 9, 16777216, 16777217, 16777217};
  same_mask<T>(heed::window{2, 1});
  same_mask<T>(heed::dilated{7, 3});
  same_mask<T>(heed::document{ids});
  same_mask<T>(heed::neighborhood<2>({{.length = 6, .window = 3}, {.length = 7, .window = 2, .causal = true}}));
  same_mask<T>((heed::causal{} & !heed::window{2, 2}) | heed::padding{4});
}

TEST_CASE("the other masks on packs") {
  const std::vector<std::int32_t> ids{0, 0, 1, 1, 1, 4, 4, 4, 4, 4, 9, 9, 9, 9};
  const std::vector<std::int32_t> start{0, 4, 9}, end{4, 20, 11}, flags{1, 0, 0, 0, 0, 1, 0, 0};
  same_mask<float>(heed::prefix_lm{5});
  same_mask<float>(heed::padding{start, end} & heed::padding{9});
  same_mask<float>(heed::global_window{-1, 0, flags});
  same_mask<float>(heed::image_cross{start, end, 6});
  same_mask<float>(heed::shared_prefix_document{2, heed::document{ids}});
  same_mask<float>(heed::shared_prefix_document{ids, ids, heed::sorted_document{ids}});
  same_mask<float>(heed::neighborhood<1>({.length = 40, .window = 5, .stride = 2, .dilation = 3}));
  same_mask<float>(heed::neighborhood<3>({{.length = 3, .window = 2, .causal = true},
                                          {.length = 4, .window = 2, .dilation = 2},
                                          {.length = 3, .window = 2}}));
  same_mask<float>(heed::mask_mod{[](auto at) { return at.kv % 3 == 0 || at.q - at.kv == 4; }} & heed::causal{});
  same_mask<float>(heed::block_mask{heed::causal{}, 16, 16, {.block_q = 4, .block_kv = 4}});
}

TEMPLATE_TEST_CASE("score mods on packs", "", float, double) {
  using T = TestType;
  const std::vector<float> slopes{0.5f, 0.125f, 2.f};
  const auto usual = heed::alibi_slopes(3);
  heed::tensor<float, 2> table({3, 32});
  for (int i = 0; i < 96; ++i) table.data()[i] = static_cast<float>(i % 17) - 4;
  const auto expanded = heed::t5_expand(heed::view<const float, 2>(table.all()), heed::t5_buckets());
  same_score<T>(heed::softcap{3});
  same_score<T>(heed::alibi{slopes});
  same_score<T>(heed::symmetric_alibi{usual});
  same_score<T>(heed::relative_bias{expanded});
  same_score<T>(heed::temperature{slopes});
  same_score<T>(heed::log_activation{[](auto s) { return heed::max(s, 0); }, 1e-3});
}

TEMPLATE_TEST_CASE("generic lambdas, with heed's functions in every spelling", "", float, double) {
  using T = TestType;
  const std::vector<float> slope{0.5f, 0.25f, 0.125f, 0.0625f};
  const heed::view<const float, 1> table(slope.data(), {4});
  same_score<T>([&](auto s, auto at) { return s - slope[static_cast<std::size_t>(at.h)] * (at.q - at.kv); });
  same_score<T>([&](auto s, auto at) {
    const auto bounded = heed::select(at.kv < 30, heed::min(s, 0.5) * 2, -s);
    return heed::select(at.q >= at.kv, s, bounded) - table[at.h] * heed::abs(at.q - at.kv);
  });
  same_score<T>([](auto s, auto) { return heed::max(0, s) + heed::abs(s) * heed::sigmoid(s) - heed::tanh(s); });
  same_score<T>([](auto s, auto) {
    return heed::log(heed::exp(s) + 1) + heed::log1p(s * s) + heed::exp2(s) + heed::sqrt(s * s);
  });
  same_score<T>([](auto s, auto) { return heed::pow(s, 3) + heed::pow(heed::abs(s) + 1, -0.5); });
  same_score<T>(
      [&](auto s, auto at) { return s + heed::lookup(table, at.q - at.kv, 0) + heed::to_real(s, at.q) / 64; });
  same_score<T>([](auto s, auto at) {
    using namespace heed;
    return max(s, abs(s)) + to_real(s, min(at.q, 3) + floor_mod(at.q, 5));
  });
}
