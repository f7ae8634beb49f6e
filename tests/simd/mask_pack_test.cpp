#include "simd/lanes.hpp"

using namespace simd_test;

TEMPLATE_TEST_CASE("comparisons, masks and select, lane by lane", "", float, double) {
  using T = TestType;
  support::for_each_arch([](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    const operands<T, A> o;
    CHECK(lanes_of(o.pa == o.pb) == each<int>(std::equal_to<>(), o.a, o.b));
    CHECK(lanes_of(o.pa != o.pb) == each<int>(std::not_equal_to<>(), o.a, o.b));
    CHECK(lanes_of(o.pa < o.pb) == each<int>(std::less<>(), o.a, o.b));
    CHECK(lanes_of(o.pa <= o.pb) == each<int>(std::less_equal<>(), o.a, o.b));
    CHECK(lanes_of(o.pa > o.pb) == each<int>(std::greater<>(), o.a, o.b));
    CHECK(lanes_of(o.pa >= o.pb) == each<int>(std::greater_equal<>(), o.a, o.b));
    CHECK(lanes_of(o.pi == o.pj) == each<int>(std::equal_to<>(), o.i, o.j));
    CHECK(lanes_of(o.pi != o.pj) == each<int>(std::not_equal_to<>(), o.i, o.j));
    CHECK(lanes_of(o.pi < o.pj) == each<int>(std::less<>(), o.i, o.j));
    CHECK(lanes_of(o.pi <= o.pj) == each<int>(std::less_equal<>(), o.i, o.j));
    CHECK(lanes_of(o.pi > o.pj) == each<int>(std::greater<>(), o.i, o.j));
    CHECK(lanes_of(o.pi >= o.pj) == each<int>(std::greater_equal<>(), o.i, o.j));

    const mask_pack<T, A> x = o.pa < o.pb, y = o.pi < o.pj;
    const std::vector<int> p = lanes_of(x), q = lanes_of(y);
    CHECK(lanes_of(x & y) == each<int>(std::bit_and<>(), p, q));
    CHECK(lanes_of(x && y) == each<int>(std::bit_and<>(), p, q));
    CHECK(lanes_of(x | y) == each<int>(std::bit_or<>(), p, q));
    CHECK(lanes_of(x || y) == each<int>(std::bit_or<>(), p, q));
    CHECK(lanes_of(x ^ y) == each<int>(std::bit_xor<>(), p, q));
    CHECK(lanes_of(!x) == each<int>(std::logical_not<>(), p));
    CHECK(any(x) == (std::count(p.begin(), p.end(), 1) > 0));
    CHECK(all(x) == (std::count(p.begin(), p.end(), 0) == 0));
    CHECK((any(mask_pack<T, A>(true)) && all(mask_pack<T, A>(true))));
    CHECK_FALSE((any(mask_pack<T, A>(false)) || all(mask_pack<T, A>(false)) || any(mask_pack<T, A>())));

    CHECK(lanes_of(select(x, o.pa, o.pb)) == each<T>([](int m, T s, T t) { return m != 0 ? s : t; }, p, o.a, o.b));
    CHECK(lanes_of(select(x, o.pi, o.pj)) ==
          each<lane_int_t<T>>([](int m, auto s, auto t) { return m != 0 ? s : t; }, p, o.i, o.j));
  });
}
