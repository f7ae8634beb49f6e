#include "simd/lanes.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

using namespace simd_test;
using heed::index_t;

namespace {

/// Addresses without memory, and single pages of it: whoever reads between them does not survive.
class address_space {
 public:
  explicit address_space(std::size_t bytes)
      : bytes_(bytes), begin_(mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
    REQUIRE(begin_ != MAP_FAILED);
  }
  ~address_space() { munmap(begin_, bytes_); }
  address_space(const address_space&) = delete;
  address_space& operator=(const address_space&) = delete;

  std::byte* page(std::size_t offset) const {
    std::byte* const first = static_cast<std::byte*>(begin_) + offset;
    REQUIRE(mprotect(first, page_bytes(), PROT_READ | PROT_WRITE) == 0);
    return first;
  }
  static std::size_t page_bytes() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

 private:
  std::size_t bytes_;
  void* begin_;
};

/// Looks up, in every lane, indices around both ends of the table and far from them.
template <class U, class T, class A>
void check_lookup(const heed::view<U, 1>& table) {
  using int_type = lane_int_t<T>;
  constexpr int count = pack<T, A>::lanes;
  constexpr int_type least = std::numeric_limits<int_type>::min(), most = std::numeric_limits<int_type>::max();
  const index_t extent = table.extent(0);
  std::vector<int_type> indices{0, 1, 1 << 30, -(1 << 30), -1, least, -most, most, most / 3};
  for (const index_t i : {extent - 1, extent, extent + 1, 2 * extent, -extent})
    if (i >= least && i <= most) indices.push_back(static_cast<int_type>(i));
  for (std::size_t turn = 0; turn < indices.size(); ++turn) {
    int_type at[count];
    for (int i = 0; i < count; ++i) at[i] = indices[(turn + static_cast<std::size_t>(i)) % indices.size()];
    const auto index = index_pack<T, A>::load(at);
    const auto inside = [&](int i) { return at[i] >= 0 && at[i] < extent; };
    const auto got = lanes_of(lookup(table, index, T(0.5)));
    for (int i = 0; i < count; ++i) {
      CAPTURE(at[i]);
      CHECK(got[static_cast<std::size_t>(i)] == (inside(i) ? static_cast<T>(table[at[i]]) : T(0.5)));
    }
    if constexpr (std::is_same_v<std::remove_const_t<U>, std::int32_t>) {
      const auto integers = lanes_of(index.lookup_in(table, -7));
      for (int i = 0; i < count; ++i) {
        CAPTURE(at[i]);
        CHECK(integers[static_cast<std::size_t>(i)] == (inside(i) ? table[at[i]] : -7));
      }
    }
  }
}

template <class U, class F>
void for_each_arch_and_type(F check) {
  support::for_each_arch([&](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    check(float{}, arch);
    check(double{}, arch);
  });
}

}  // namespace

TEMPLATE_TEST_CASE("lookup reads nothing outside its table, whatever its stride", "", float, double, std::int32_t) {
  using U = TestType;
  const std::size_t page_bytes = address_space::page_bytes();
  const address_space memory(3 * page_bytes);
  U* const first = reinterpret_cast<U*>(memory.page(page_bytes));
  const auto places = static_cast<index_t>(page_bytes / sizeof(U));
  // Large integers, for which float is too narrow, among the elements.
  for (index_t i = 0; i < places; ++i) first[i] = static_cast<U>(i % 3 == 0 ? 16777217 + i : 5 * i - 900);
  for_each_arch_and_type<U>([&](auto real, auto arch) {
    using T = decltype(real);
    using A = decltype(arch);
    for (const index_t stride : {1, 2, 3, 100}) {
      CAPTURE(stride);
      const index_t extent = (places - 1) / stride + 1;
      check_lookup<U, T, A>({first, {extent}, {stride}});
      check_lookup<U, T, A>({first + places - 1, {extent}, {-stride}});
    }
    check_lookup<U, T, A>({first + places - 1, {3}, {0}});
    check_lookup<U, T, A>({first + places - 1, {1}});
    check_lookup<const U, T, A>({});
  });
}

TEMPLATE_TEST_CASE("lookup reaches elements whose offset needs more than 32 bit", "", float, double, std::int32_t) {
  using U = TestType;
  constexpr index_t stride = index_t(1) << 30, bytes = 2 * stride * index_t(sizeof(U));
  const address_space memory(static_cast<std::size_t>(bytes) + address_space::page_bytes());
  U* const first = reinterpret_cast<U*>(memory.page(0));
  U* const middle = reinterpret_cast<U*>(memory.page(bytes / 2));
  U* const last = reinterpret_cast<U*>(memory.page(bytes));
  *first = U(3), *middle = U(4), *last = U(5);
  for_each_arch_and_type<U>([&](auto real, auto arch) {
    using T = decltype(real);
    using A = decltype(arch);
    check_lookup<U, T, A>({first, {3}, {stride}});
    check_lookup<U, T, A>({last, {3}, {-stride}});
    check_lookup<U, T, A>({first, {2}, {2 * stride}});
    check_lookup<U, T, A>({last, {2}, {-2 * stride}});
    check_lookup<U, T, A>({first, {std::numeric_limits<std::int32_t>::max()}, {0}});
    check_lookup<U, T, A>({first, {index_t(1) << 40}, {0}});
  });
}
