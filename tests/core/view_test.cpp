#include "support/catch.hpp"

#include <heed/core/setting.hpp>
#include <heed/core/tensor.hpp>
#include <heed/core/view.hpp>

#include <type_traits>

using heed::index_t;
using heed::view;

TEST_CASE("a dense view has its last axis fastest") {
  float data[24];
  for (int i = 0; i < 24; ++i) data[i] = static_cast<float>(i);
  const view<float, 3> v(data, {2, 3, 4});
  CHECK(v.size() == 24);
  CHECK(v.stride(0) == 12);
  CHECK(v.stride(1) == 4);
  CHECK(v.stride(2) == 1);
  CHECK(v(1, 2, 3) == 23);
  CHECK(&v(1, 0, 2) == data + 14);
}

TEST_CASE("a view follows any strides") {
  float data[24] = {};
  const view<float, 3> swapped(data, {3, 2, 4}, {4, 12, 1});
  CHECK(&swapped(2, 1, 3) == data + 2 * 4 + 12 + 3);
  const view<float, 1> backwards(data + 23, {24}, {-1});
  CHECK(&backwards(23) == data);
  CHECK(&backwards[1] == data + 22);
}

TEST_CASE("an empty view means not given") {
  constexpr view<const float, 4> none;
  STATIC_REQUIRE(!none);
  STATIC_REQUIRE(none.data() == nullptr);
  STATIC_REQUIRE(none.size() == 0);
  float x = 0;
  CHECK(view<float, 1>(&x, {1}));
  CHECK(view<float, 2>(&x, {0, 5}).size() == 0);
}

TEST_CASE("views of mutable elements are views of const elements, not the reverse") {
  STATIC_REQUIRE(std::is_convertible_v<view<float, 2>, view<const float, 2>>);
  STATIC_REQUIRE(!std::is_convertible_v<view<const float, 2>, view<float, 2>>);
  STATIC_REQUIRE(!std::is_convertible_v<view<float, 2>, view<const double, 2>>);
  STATIC_REQUIRE(std::is_trivially_copyable_v<view<float, 5>>);
  float data[6] = {};
  const view<float, 2> writable(data, {2, 3}, {1, 2});
  const view<const float, 2> readable = writable;
  CHECK(readable.data() == data);
  CHECK(readable.extent(1) == 3);
  CHECK(readable.stride(1) == 2);
}

TEST_CASE("indexing, slicing, swapping and broadcasting keep pointing at the same elements") {
  int data[24];
  for (int i = 0; i < 24; ++i) data[i] = i;
  const view<int, 3> v(data, {2, 3, 4});

  const view<int, 2> second = v[1];
  CHECK(second(2, 3) == 23);
  CHECK(second[0][1] == 13);
  v[1][0][1] = 99;
  CHECK(data[13] == 99);

  const view<int, 3> part = v.slice(1, 1, 3);
  CHECK(part.extent(1) == 2);
  CHECK(&part(1, 0, 0) == &v(1, 1, 0));

  const view<int, 3> other = v.swap_axes(0, 2);
  CHECK(other.extent(0) == 4);
  CHECK(&other(3, 1, 0) == &v(0, 1, 3));

  const view<int, 3> wide = v.slice(0, 1, 2).broadcast(0, 7);
  CHECK(wide.extent(0) == 7);
  CHECK(&wide(6, 2, 1) == &v(1, 2, 1));
}

TEST_CASE("outputs are told by what they are") {
  STATIC_REQUIRE(heed::writable<view<float, 4>, 4>);
  STATIC_REQUIRE(heed::writable<view<float, 4>&, 4>);
  STATIC_REQUIRE(heed::writable<const view<float, 4>&, 4>);
  STATIC_REQUIRE(!heed::writable<view<const float, 4>, 4>);
  STATIC_REQUIRE(!heed::writable<view<float, 3>, 4>);
  STATIC_REQUIRE(!heed::writable<float*, 1>);
  STATIC_REQUIRE(heed::writable<heed::tensor<float, 4>&, 4>);
  STATIC_REQUIRE(!heed::writable<const heed::tensor<float, 4>&, 4>);
  STATIC_REQUIRE(std::is_same_v<heed::element_of_t<heed::tensor<double, 2>&>, double>);
}

TEST_CASE("a setting knows whether it was given") {
  constexpr heed::setting<double> none, half = 0.5;
  STATIC_REQUIRE(!none.given());
  STATIC_REQUIRE(none.or_default(3.0) == 3.0);
  STATIC_REQUIRE(half.given());
  STATIC_REQUIRE(half.or_default(3.0) == 0.5);

  struct options {
    heed::setting<double> scale = {};
    heed::setting<index_t> q_offset = {};
  };
  const options given{.scale = 0.0f, .q_offset = -1};
  CHECK(given.scale.given());
  CHECK(given.scale.or_default(1.0) == 0.0);
  CHECK(given.q_offset.or_default(7) == -1);
  CHECK_FALSE(options{}.scale.given());
  CHECK_FALSE(options{.scale = {}}.scale.given());
}
