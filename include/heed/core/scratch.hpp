/// Temporary memory of a call: how much, from whom.
#pragma once

#include <heed/config.hpp>
#include <heed/core/error.hpp>
#include <heed/core/view.hpp>

#include <cstddef>
#include <new>

HEED_BEGIN

/// Memory the caller lends to a call so that it allocates nothing. Any alignment; contents before and after do not
/// matter.
/// `{}`: memory that the calling thread keeps from call to call, grown when a call needs more (see release_scratch).
struct scratch_view {
  void* data = nullptr;
  index_t bytes = 0;
};

HEED_END

HEED_ARCH_BEGIN
namespace detail {

inline constexpr index_t cache_line = 64;

HEED_INLINE constexpr index_t round_up(index_t n, index_t multiple) noexcept {
  return (n + multiple - 1) / multiple * multiple;
}

/// Memory one thread keeps for its calls. A fresh block for every call would be paid for in page faults: 5-20 % of a
/// short call.
struct thread_scratch {
  void* data = nullptr;
  index_t bytes = 0;
  bool lent = false;

  ~thread_scratch() { ::operator delete(data); }

  static thread_scratch& mine() noexcept {
    thread_local thread_scratch scratch;
    return scratch;
  }
};

/// Memory that is lent must do.
inline void check_scratch(const checker& check, scratch_view given, index_t bytes) {
  if (given.data != nullptr && given.bytes < bytes) [[unlikely]]
    check.fail_with("options.scratch", text("at least %lld bytes", static_cast<long long>(bytes)).c_str(),
                    show(given.bytes).c_str());
}

/// The scratch of one call: the caller's if given (checked for size), else the thread's, or a block of its own if the
/// thread's is lent already, as in a mod that calls an operator.
class scratch_block {
 public:
  /// `bytes` includes the slack that `align` may use up; see scratch_total.
  scratch_block(const checker& check, scratch_view given, index_t bytes) {
    check_scratch(check, given, bytes);
    if (given.data != nullptr) {
      base_ = align(given.data);
      return;
    }
    thread_scratch& kept = thread_scratch::mine();
    if (kept.lent) {
      owned_ = ::operator new(static_cast<std::size_t>(bytes));
      base_ = align(owned_);
      return;
    }
    if (kept.bytes < bytes) {
      ::operator delete(kept.data);
      kept.data = nullptr;
      kept.bytes = 0;
      kept.data = ::operator new(static_cast<std::size_t>(bytes));
      kept.bytes = bytes;
    }
    kept.lent = true;
    borrowed_ = &kept;
    base_ = align(kept.data);
  }
  scratch_block(const scratch_block&) = delete;
  scratch_block& operator=(const scratch_block&) = delete;
  ~scratch_block() {
    if (borrowed_ != nullptr) borrowed_->lent = false;
    ::operator delete(owned_);
  }

  std::byte* data() const noexcept { return base_; }

 private:
  static std::byte* align(void* p) noexcept {
    const auto address = reinterpret_cast<std::uintptr_t>(p);
    return reinterpret_cast<std::byte*>((address + cache_line - 1) / cache_line * cache_line);
  }

  thread_scratch* borrowed_ = nullptr;
  void* owned_ = nullptr;
  std::byte* base_ = nullptr;
};

/// Bytes to ask for so that `workers` aligned shares of `bytes_each` fit whatever the alignment of the block.
HEED_INLINE constexpr index_t scratch_total(index_t bytes_each, index_t workers) noexcept {
  return round_up(bytes_each, cache_line) * workers + cache_line;
}

/// Hands out aligned arrays of one worker's share. With a null base it only counts, so that the size a call asks for
/// and the size it uses come from the same code.
class scratch_cursor {
 public:
  explicit constexpr scratch_cursor(std::byte* base) noexcept : base_(base) {}

  template <class T>
  T* take(index_t count) noexcept {
    std::byte* here = base_ == nullptr ? nullptr : base_ + used_;
    used_ += round_up(count * index_t(sizeof(T)), cache_line);
    return reinterpret_cast<T*>(here);
  }

  constexpr index_t used() const noexcept { return used_; }

 private:
  std::byte* base_;
  index_t used_ = 0;
};

}  // namespace detail

/// Frees the memory that the calling thread keeps for calls without options.scratch. It is also freed at thread exit.
inline void release_scratch() noexcept {
  detail::thread_scratch& kept = detail::thread_scratch::mine();
  if (kept.lent) return;
  ::operator delete(kept.data);
  kept.data = nullptr;
  kept.bytes = 0;
}

HEED_ARCH_END
