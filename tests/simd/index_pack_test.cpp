#include "simd/lanes.hpp"

using namespace simd_test;

TEMPLATE_TEST_CASE("index packs compute lane by lane what integers do", "", float, double) {
  using T = TestType;
  support::for_each_arch([](auto arch) {
    using A = decltype(arch);
    using I = lane_int_t<T>;
    CAPTURE(A::name());
    const operands<T, A> o;
    CHECK(lanes_of(o.pi + o.pj) == each<I>(std::plus<>(), o.i, o.j));
    CHECK(lanes_of(o.pi - 3) == each<I>([](I x) { return x - 3; }, o.i));
    CHECK(lanes_of(2 * o.pi * o.pj) == each<I>([](I x, I y) { return 2 * x * y; }, o.i, o.j));
    CHECK(lanes_of(-o.pi) == each<I>(std::negate<>(), o.i));
    CHECK(lanes_of(min(o.pi, o.pj)) == each<I>([](I x, I y) { return std::min(x, y); }, o.i, o.j));
    CHECK(lanes_of(max(o.pi, o.pj)) == each<I>([](I x, I y) { return std::max(x, y); }, o.i, o.j));
    CHECK(lanes_of(abs(o.pi)) == each<I>([](I x) { return x < 0 ? -x : x; }, o.i));
    for (const int divisor : {1, 2, 3, 7, 100}) {
      CHECK(lanes_of(floor_mod(o.pi, divisor)) ==
            each<I>([=](I x) { return ((x % divisor) + divisor) % divisor; }, o.i));
      CHECK(lanes_of(floor_div(o.pi, divisor)) == each<I>([=](I x) { return std::floor(double(x) / divisor); }, o.i));
    }
    const std::vector<I> counted = lanes_of(index_pack<T, A>::counting_from(-5));
    for (std::size_t n = 0; n < counted.size(); ++n) CHECK(counted[n] == static_cast<I>(n) - 5);
  });
}

TEMPLATE_TEST_CASE("a real number beside an index pack keeps its fraction", "", float, double) {
  using T = TestType;
  support::for_each_arch([](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    const operands<T, A> o;
    const auto real = [](auto i) { return static_cast<T>(i); };
    CHECK(lanes_of(0.25f * o.pi) == each<T>([&](auto i) { return T(0.25) * real(i); }, o.i));
    CHECK(lanes_of(o.pi * 0.25) == each<T>([&](auto i) { return T(0.25) * real(i); }, o.i));
    CHECK(lanes_of(o.pi + 0.5) == each<T>([&](auto i) { return real(i) + T(0.5); }, o.i));
    CHECK(lanes_of(0.5 - o.pi) == each<T>([&](auto i) { return T(0.5) - real(i); }, o.i));
    CHECK(lanes_of(o.pi / 4.0) == each<T>([&](auto i) { return real(i) / 4; }, o.i));
    CHECK(lanes_of(o.pa + o.pi) == each<T>([&](T x, auto i) { return x + real(i); }, o.a, o.i));
    CHECK(lanes_of(o.pi * o.pa) == each<T>([&](T x, auto i) { return x * real(i); }, o.a, o.i));
    CHECK(lanes_of(to_real(o.pa, o.pi)) == each<T>(real, o.i));
  });
}
