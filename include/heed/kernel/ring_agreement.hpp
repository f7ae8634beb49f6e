/// What ranks tell each other before a ring starts: whether all were given arguments that fit, and the same call.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/token_layout.hpp>
#include <heed/core/transport.hpp>

#include <cstdint>
#include <exception>
#include <type_traits>
#if defined(__cpp_rtti)
#include <typeinfo>
#endif

HEED_ARCH_BEGIN
namespace detail {

/// A number that differs between byte strings, as far as 64 bits can (FNV-1a).
class fingerprint {
 public:
  constexpr void add(std::uint64_t number) noexcept {
    for (int i = 0; i < 8; ++i) add_byte(static_cast<unsigned char>(number >> (8 * i)));
  }
  constexpr void add(const char* characters) noexcept {
    for (; *characters != 0; ++characters) add_byte(static_cast<unsigned char>(*characters));
  }
  constexpr std::uint64_t value() const noexcept { return value_; }

 private:
  constexpr void add_byte(unsigned char byte) noexcept { value_ = (value_ ^ byte) * 0x100000001b3u; }

  std::uint64_t value_ = 0xcbf29ce484222325u;
};

HEED_COLD inline std::uint64_t fingerprint_of(const token_layout& layout) noexcept {
  fingerprint print;
  print.add(static_cast<std::uint64_t>(layout.how()));
  print.add(static_cast<std::uint64_t>(layout.tokens()));
  print.add(static_cast<std::uint64_t>(layout.ranks()));
  if (layout.how() != token_layout::rule::cut && layout.how() != token_layout::rule::listed) return print.value();
  for (int r = 0; r < layout.ranks(); ++r) {
    const index_t count = layout.count(r);
    print.add(static_cast<std::uint64_t>(count));
    for (index_t i = 0; i < (layout.how() == token_layout::rule::listed ? count : 0); ++i)
      print.add(static_cast<std::uint64_t>(layout.token(r, i)));
  }
  return print.value();
}

/// Differs between types, in one program. (Ranks run one program.)
template <class... Types>
std::uint64_t fingerprint_of_types() noexcept {
  fingerprint print;
  print.add(__PRETTY_FUNCTION__);
#if defined(__cpp_rtti)
  // g++ calls all lambdas of a function alike that take the same arguments.
  (print.add(typeid(Types).name()), ...);
#endif
  return print.value();
}

/// Something that must be the same on all ranks, and how an error names it.
struct ring_fact {
  const char* name;
  std::uint64_t value;
  bool readable = false;  // an integer, which the error shows
};

inline ring_fact readable_fact(const char* name, index_t value) noexcept {
  return {name, static_cast<std::uint64_t>(value), true};
}

/// As many in all operators, some of them unused: ranks that are in different ones find out too. The first fact tells
/// which operator it is.
inline constexpr int ring_fact_count = 19;

/// Runs f; if it throws, no other rank may wait for this one.
template <class Transport, class F>
void or_abort([[maybe_unused]] Transport& ranks, const F& f) {
#if HEED_EXCEPTIONS
  try {
    f();
  } catch (...) {
    if (ranks.size() > 1) ranks.abort(1);
    throw;
  }
#else
  f();
#endif
}

/// One exchange in which all ranks find out whether their arguments fit. `state_facts(facts)` checks the arguments of
/// this rank and writes facts; returned is the largest step that it returned on any rank. If it throws
/// heed::invalid_argument on some rank, or facts differ, all ranks throw heed::invalid_argument (refused_elsewhere, those
/// that did not throw it themselves), and the transport is as good as before. If it throws something else (a mask may,
/// that is asked what it sees), the call fails on all.
template <class Transport, class StateFacts>
HEED_COLD int agree(const checker& check, Transport& ranks, const StateFacts& state_facts) {
  constexpr int count = ring_fact_count;
  ring_fact facts[count] = {};
  std::uint64_t told[2 * count + 2] = {};
  const auto state = [&] {
    told[1] = static_cast<std::uint64_t>(state_facts(facts));
    for (int i = 0; i < count; ++i) {
      told[2 + i] = facts[i].value;
      told[2 + count + i] = ~facts[i].value;
    }
  };
  if (ranks.size() == 1) {
    state();
    return static_cast<int>(told[1]);
  }
#if HEED_EXCEPTIONS
  std::exception_ptr own;
#endif
  or_abort(ranks, [&] {
#if HEED_EXCEPTIONS
    try {
      state();
    } catch (const invalid_argument&) {
      own = std::current_exception();
      told[0] = static_cast<std::uint64_t>(ranks.rank()) + 1;
    }
#else
    state();
#endif
    ranks.allreduce_max(view<std::uint64_t, 1>(told, {2 * count + 2}));
  });
#if HEED_EXCEPTIONS
  if (own) std::rethrow_exception(own);
  if (told[0] != 0) {
    const int refusing = static_cast<int>(told[0]) - 1;
    const text got("some on rank %d that do not, as its own error says", refusing);
    throw refused_elsewhere(check.message("arguments", "ones that fit on all ranks", got.c_str()).c_str(), refusing);
  }
#endif
  for (int i = 0; i < count; ++i) {
    const std::uint64_t most = told[2 + i], least = ~told[2 + count + i];
    if (most != least) [[unlikely]]
      check.fail_with(facts[i].name, "the same on all ranks",
                      facts[i].readable
                          ? text("%lld here, another on another rank", static_cast<long long>(facts[i].value)).c_str()
                          : "another here than on another rank");
  }
  return static_cast<int>(told[1]);
}

}  // namespace detail
HEED_ARCH_END
