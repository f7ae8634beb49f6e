/// Lanes of packs as vectors, to compare with what the same operators give for numbers.
#pragma once

#include "support/arch.hpp"
#include "support/catch.hpp"

#include <heed/simd/pack.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

namespace simd_test {

using heed::index_pack;
using heed::lane_int_t;
using heed::mask_pack;
using heed::pack;

template <class T, class A>
std::vector<T> lanes_of(pack<T, A> p) {
  std::vector<T> lane(pack<T, A>::lanes);
  p.store(lane.data());
  return lane;
}
template <class T, class A>
std::vector<lane_int_t<T>> lanes_of(index_pack<T, A> p) {
  std::vector<lane_int_t<T>> lane(index_pack<T, A>::lanes);
  p.store(lane.data());
  return lane;
}
template <class T, class A>
std::vector<int> lanes_of(mask_pack<T, A> m) {
  const std::vector<T> chosen = lanes_of(select(m, pack<T, A>(1), pack<T, A>(0)));
  return std::vector<int>(chosen.begin(), chosen.end());
}

/// f of each lane, as an operator on numbers gives it.
template <class R, class F, class... Lanes>
std::vector<R> each(F f, const std::vector<Lanes>&... lanes) {
  std::vector<R> result;
  const std::size_t count = std::min({lanes.size()...});
  for (std::size_t i = 0; i < count; ++i) result.push_back(static_cast<R>(f(lanes[i]...)));
  return result;
}

/// Operands with both signs, equal lanes and zero among them, of whatever number of lanes.
template <class T, class A>
struct operands {
  std::vector<T> a, b;
  std::vector<lane_int_t<T>> i, j;
  pack<T, A> pa, pb;
  index_pack<T, A> pi, pj;

  operands() {
    for (int n = 0; n < pack<T, A>::lanes; ++n) {
      a.push_back(static_cast<T>(n % 3 == 0 ? 2 : n - 5) / 4);
      b.push_back(static_cast<T>(n % 3 == 0 ? 2 : 3 - 2 * n) / 4);
      i.push_back(n % 4 == 1 ? 7 : 5 * n - 11);
      j.push_back(n % 4 == 1 ? 7 : 9 - 4 * n);
    }
    pa = pack<T, A>::load(a.data());
    pb = pack<T, A>::load(b.data());
    pi = index_pack<T, A>::load(i.data());
    pj = index_pack<T, A>::load(j.data());
  }
};

}  // namespace simd_test
