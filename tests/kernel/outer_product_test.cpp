#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

#include <heed/kernel/outer_product.hpp>
#include <heed/kernel/tile_shape.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

using heed::index_t;
using heed::pack;

namespace {

struct block {
  int rows, vectors, lanes;
};

/// What the block must hold, by plain loops in the order of depth: sum [row][vector][lane] starts at 10 row + vector.
template <class T>
std::vector<T> expected_sums(const T* a, index_t row, index_t step, const T* b, index_t pitch, index_t depth,
                             const block& of) {
  std::vector<T> sums;
  for (int r = 0; r < of.rows; ++r)
    for (int i = 0; i < of.vectors * of.lanes; ++i) {
      T sum = T(10 * r + i / of.lanes);
      for (index_t k = 0; k < depth; ++k) sum += a[r * row + k * step] * b[k * pitch + i];
      sums.push_back(sum);
    }
  return sums;
}

/// Against plain loops. Sums of small integers are exact, so they must agree in every bit.
template <int Rows, int Vectors, class T, class A>
void check_block() {
  using P = pack<T, A>;
  constexpr int lanes = P::lanes, pitch = (Vectors + 2) * lanes;
  support::random_engine random(Rows * 10 + Vectors);
  const auto small = [&random] { return static_cast<T>(static_cast<int>(random() % 9) - 4); };
  for (const index_t depth : {0, 1, 2, 7, 64}) {
    const index_t row_step = depth + 3;
    std::vector<T> a(static_cast<std::size_t>(Rows * row_step + 1));
    for (T& x : a) x = small();
    std::vector<T> memory(static_cast<std::size_t>(depth * pitch + 64 + 1), std::numeric_limits<T>::quiet_NaN());
    T* b = memory.data();
    while (reinterpret_cast<std::uintptr_t>(b) % 64 != 0) ++b;
    for (index_t k = 0; k < depth; ++k)
      for (int i = 0; i < Vectors * lanes; ++i) b[k * pitch + i] = small();

    const auto check_scalars = [&](const auto& scalars, index_t row, index_t step, auto b_step) {
      int emitted[Rows][Vectors] = {};
      std::vector<T> sums(Rows * Vectors * lanes);
      heed::detail::outer_product<Rows, Vectors, T, A>(
          scalars, b, b_step, depth, [](int r, int v) { return P(T(10 * r + v)); },
          [&](int r, int v, P sum) {
            ++emitted[r][v];
            sum.store(&sums[static_cast<std::size_t>((r * Vectors + v) * lanes)]);
          });
      CAPTURE(Rows, Vectors, depth, A::name());
      CHECK(std::all_of(&emitted[0][0], &emitted[0][0] + Rows * Vectors, [](int count) { return count == 1; }));
      CHECK(sums == expected_sums(a.data(), row, step, b, pitch, depth, {Rows, Vectors, lanes}));
    };
    const auto check = [&](auto row, auto step, auto b_step) {
      check_scalars(heed::detail::scalars<Rows>(a.data(), row, step), row, step, b_step);
    };
    using heed::detail::fixed_step;
    using heed::detail::pointed_rows;
    using heed::detail::unit_step;
    // Rows that are anywhere: each in memory of its own, which ends where the row does.
    const auto listed = [&](index_t count, index_t length, index_t before, const auto& run) {
      std::vector<std::vector<T>> rows;
      std::vector<const T*> at;
      for (index_t i = 0; i < count; ++i) {
        rows.emplace_back(static_cast<std::size_t>(before), T(7));
        rows.back().insert(rows.back().end(), a.begin() + i * length, a.begin() + (i + 1) * length);
      }
      for (const std::vector<T>& each : rows) at.push_back(each.data());
      run(pointed_rows<const T>{at.data()});
    };
    listed(Rows, depth, 0, [&](pointed_rows<const T> rows) {
      check_scalars(heed::detail::along<Rows>(rows), depth, 1, fixed_step<pitch>{});
    });
    listed(depth, Rows, 3, [&](pointed_rows<const T> rows) {
      check_scalars(heed::detail::across<Rows>(rows, 3), 1, Rows, fixed_step<pitch>{});
    });
    check(row_step, unit_step{}, fixed_step<pitch>{});
    // Values: rows are neighbors, depth goes from row to row.
    if (depth * Rows < static_cast<index_t>(a.size())) check(unit_step{}, index_t(Rows), fixed_step<pitch>{});
    // Gradients of keys: rows are those of a tile, what they multiply has a pitch of its own.
    if (depth <= 67) {
      a.resize(static_cast<std::size_t>(Rows * 67 + 1), T(3));
      check(fixed_step<67>{}, unit_step{}, index_t(pitch));
    }
  }
}

/// The blocks that a tile of this instruction set is cut into.
template <int Vectors, class T, class A>
void check_blocks() {
  constexpr int most = heed::detail::tile_shape<T, A>::rows(Vectors);
  check_block<most, Vectors, T, A>();
  if constexpr (most > 4) check_block<4, Vectors, T, A>();
  check_block<2, Vectors, T, A>();
  check_block<1, Vectors, T, A>();
}

template <class T>
void check_default_arch() {
  using A = heed::default_arch;
  check_blocks<heed::detail::tile_shape<T, A>::vectors, T, A>();
  check_blocks<1, T, A>();
}

}  // namespace

TEST_CASE("outer_product equals plain loops for all register blocks") {
  check_default_arch<float>();
  check_default_arch<double>();
}

TEST_CASE("outer_product equals plain loops on every distinct instruction set") {
  support::for_each_distinct_arch([](auto arch) {
    using A = decltype(arch);
    check_block<4, 2, float, A>();
    check_block<2, 3, double, A>();
  });
}
