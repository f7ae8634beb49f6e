#include "support/catch.hpp"

#include <heed/core/float16.hpp>
#include <heed/core/tensor.hpp>

#include <cstdint>
#include <limits>
#include <new>
#include <utility>

using heed::index_t;
using heed::tensor;

TEST_CASE("a tensor is dense, aligned and zero") {
  tensor<float, 3> t({2, 3, 5});
  CHECK(t.size() == 30);
  CHECK(t.extent(2) == 5);
  CHECK(t.stride(0) == 15);
  CHECK(reinterpret_cast<std::uintptr_t>(t.data()) % 64 == 0);
  float sum = 0;
  for (const float x : t) sum += x < 0 ? -x : x;
  CHECK(sum == 0);
  t(1, 2, 4) = 7;
  CHECK(*(t.end() - 1) == 7);
  CHECK(t.all()(1, 2, 4) == 7);
}

TEST_CASE("a tensor can be filled") {
  const auto ones = tensor<heed::bfloat16, 2>::full({3, 4}, heed::bfloat16(1));
  int count = 0;
  for (const auto x : ones) count += x == 1;
  CHECK(count == 12);
  tensor<double, 1> t({4});
  t.fill(-2);
  CHECK(t(0) == -2);
  CHECK(t(3) == -2);
}

TEST_CASE("a tensor without elements is legal") {
  const tensor<float, 2> none, empty({0, 4});
  CHECK(none.size() == 0);
  CHECK(none.data() == nullptr);
  CHECK(none.begin() == none.end());
  CHECK(empty.size() == 0);
  CHECK(empty.data() != nullptr);
  CHECK(empty.extent(1) == 4);
  const tensor<float, 2> copy = empty, copy_of_none = none;
  CHECK(copy.extent(1) == 4);
  CHECK(copy_of_none.data() == nullptr);
}

TEST_CASE("copies of a tensor own their elements") {
  tensor<int, 2> a({2, 2});
  a(1, 1) = 5;
  tensor<int, 2> b = a;
  b(1, 1) = 6;
  CHECK(a(1, 1) == 5);
  CHECK(b.data() != a.data());

  tensor<int, 2> c({7, 1});
  c = a;
  CHECK(c.extent(0) == 2);
  CHECK(c(1, 1) == 5);
  auto& alias = c;
  c = alias;
  CHECK(c(1, 1) == 5);
}

TEST_CASE("moving a tensor hands over its elements") {
  tensor<int, 2> a({2, 2});
  a(0, 1) = 5;
  const int* elements = a.data();
  tensor<int, 2> b = std::move(a);
  CHECK(b.data() == elements);
  CHECK(a.data() == nullptr);
  CHECK(a.size() == 0);

  tensor<int, 2> c({1, 1});
  c = std::move(b);
  CHECK(c(0, 1) == 5);
  CHECK(b.data() == nullptr);
  auto& alias = c;
  c = std::move(alias);
  CHECK(c(0, 1) == 5);

  tensor<int, 2> d;
  d.swap(c);
  CHECK(d.data() == elements);
  CHECK(c.size() == 0);
}

TEST_CASE("a tensor that cannot exist throws bad_alloc") {
  const index_t most = std::numeric_limits<index_t>::max();
  CHECK_THROWS_AS((tensor<float, 1>({-1})), std::bad_alloc);
  CHECK_THROWS_AS((tensor<float, 2>({0, -1})), std::bad_alloc);
  CHECK_THROWS_AS((tensor<double, 1>({most / 8 + 1})), std::bad_alloc);
  CHECK_THROWS_AS((tensor<char, 2>({most, 2})), std::bad_alloc);
  CHECK_THROWS_AS((tensor<float, 3>({0, index_t(1) << 40, index_t(1) << 40})), std::bad_alloc);
}
