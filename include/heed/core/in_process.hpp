/// Ranks that are threads of one process: a transport for tests, and for machines with several memories.
#pragma once

#include <heed/config.hpp>
#include <heed/core/error.hpp>
#include <heed/core/transport.hpp>
#include <heed/core/view.hpp>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

HEED_ARCH_BEGIN

class in_process_group;

namespace detail {

/// A posted send or receive. Those that wait for their other side hang in the list of the group.
struct in_process_post {
  enum class stage { waiting, copying, done, mismatched };

  in_process_group* group;
  std::byte* data;
  index_t bytes;
  int from, to, tag;
  bool sends;
  stage state = stage::waiting;
  index_t other_bytes = 0;  // of a mismatch
  in_process_post* previous = nullptr;
  in_process_post* next = nullptr;
};

}  // namespace detail

/// One rank of an in_process_group, which makes it: a transport. Used by one thread at a time.
class in_process_transport {
 public:
  class request {
   public:
    request() noexcept = default;
    explicit request(std::unique_ptr<detail::in_process_post> post) noexcept : post_(std::move(post)) {}
    request(request&& other) noexcept = default;
    request& operator=(request&& other) noexcept {
      if (this != &other) {
        cancel();
        post_ = std::move(other.post_);
      }
      return *this;
    }
    ~request() { cancel(); }

   private:
    friend class in_process_transport;
    inline void cancel() noexcept;

    std::unique_ptr<detail::in_process_post> post_;
  };

  int rank() const noexcept { return rank_; }
  inline int size() const noexcept;

  /// Whoever comes second, sender or receiver, copies from buffer to buffer; so nothing is stored in between.
  inline request isend(view<const std::byte, 1> from, int peer, int tag);
  inline request irecv(view<std::byte, 1> to, int peer, int tag);
  inline void wait(request& message);
  inline void wait_all(view<request, 1> messages);
  inline bool test(request& message);
  inline void poll();
  inline void allreduce_sum(view<float, 1> values);
  inline void allreduce_sum(view<double, 1> values);
  inline void allreduce_max(view<std::uint64_t, 1> values);
  inline void barrier();
  inline void abort(int code) noexcept;

 private:
  friend class in_process_group;
  inline request post(std::byte* data, index_t bytes, int from, int to, int tag, bool sends, const char* call);
  /// If the message is done: true, or an exception.
  inline bool finished(request& message, const char* call);
  template <class T, class Combine>
  void reduce(view<T, 1> values, const char* call, const Combine& combine);

  in_process_group* group_ = nullptr;
  int rank_ = 0;
};

/// `size` ranks in one process.
///
///     heed::in_process_group group(4);
///     group.run([&](heed::in_process_transport& ranks) {                       // four threads
///       heed::ring_forward(ranks, q[ranks.rank()], ...);
///     });
///
/// run() makes the threads; programs that have threads hand each of them its rank() instead. A group whose rank failed
/// is of no use any more: every call throws.
class in_process_group {
 public:
  /// patience: how many seconds a call waits for another rank before it throws; 0: forever.
  /// Throws heed::invalid_argument: size below 1, patience negative.
  explicit in_process_group(int size, double patience = 0) : patience_(patience) {
    const detail::checker check("in_process_group");
    check.require(size >= 1, "size", "at least 1", size);
    check.require(patience >= 0, "patience", "at least 0", patience);
    ranks_ = std::make_unique<in_process_transport[]>(static_cast<std::size_t>(size));
    shares_ = std::make_unique<share[]>(static_cast<std::size_t>(size));
    size_ = size;
    for (int r = 0; r < size; ++r) {
      rank(r).group_ = this;
      rank(r).rank_ = r;
    }
  }
  in_process_group(const in_process_group&) = delete;
  in_process_group& operator=(const in_process_group&) = delete;

  int size() const noexcept { return size_; }
  in_process_transport& rank(int r) noexcept { return ranks_[static_cast<std::size_t>(r)]; }

  /// Calls f(rank) for every rank, each on a thread of its own, and returns when all have. If some threw, the others
  /// are told so, and the exception of the one that failed first is thrown again; but none that another rank is the cause
  /// of, if that one threw too.
  template <class F>
  void run(const F& f) {
    const auto owned = std::make_unique<worker[]>(static_cast<std::size_t>(size_));
    worker* const workers = owned.get();
#if HEED_EXCEPTIONS
    // Of a rank, and of a thread that the system does not make: those that run already must not wait for it.
    const auto guarded = [&](int r, const auto& work) {
      try {
        work();
      } catch (...) {
        workers[r].failure = std::current_exception();
        rank(r).abort(1);
      }
    };
#else
    const auto guarded = [](int, const auto& work) { work(); };
#endif
    for (int r = 0; r < size_; ++r)
      guarded(
          r, [&, r] { workers[r].thread = std::thread([this, r, &f, &guarded] { guarded(r, [&] { f(rank(r)); }); }); });
    for (int r = 0; r < size_; ++r)
      if (workers[r].thread.joinable()) workers[r].thread.join();
#if HEED_EXCEPTIONS
    const int first = failed_.load();
    std::exception_ptr thrown = first >= 0 ? workers[first].failure : nullptr;
    bool echo = !thrown || is_echo(thrown, true);
    for (int r = 0; r < size_ && echo; ++r) {
      if (!workers[r].failure) continue;
      echo = is_echo(workers[r].failure, r == first);
      if (!thrown || !echo) thrown = workers[r].failure;
    }
    if (thrown) std::rethrow_exception(thrown);
#endif
  }

 private:
  friend class in_process_transport;
  using post_type = detail::in_process_post;

  struct worker {
    std::thread thread;
    std::exception_ptr failure;
  };
  struct share {
    void* values = nullptr;
  };

#if HEED_EXCEPTIONS
  /// Whether a rank threw this because of another one. (Of transport errors the first is nobody else's.)
  static bool is_echo(const std::exception_ptr& failure, bool first) {
    try {
      std::rethrow_exception(failure);
    } catch (const refused_elsewhere&) {
      return true;
    } catch (const transport_error&) {
      return !first;
    } catch (...) {
      return false;
    }
  }
#endif

  /// Waits until holds(), with the lock held; throws if a rank failed or patience ends. what(): what it waits for.
  template <class Holds, class What>
  void wait_until(std::unique_lock<std::mutex>& lock, int rank, int peer, const char* call, const Holds& holds,
                  const What& what) {
    const auto over = [&] { return holds() || failed_.load() >= 0; };
    if (patience_ == 0) {
      changed_.wait(lock, over);
    } else if (!changed_.wait_for(lock, std::chrono::duration<double>(patience_), over)) {
      // Nobody may rely on this rank any more, nor write to what it waited for.
      int none = -1;
      failed_.compare_exchange_strong(none, rank);
      changed_.notify_all();
      detail::fail_transport("in_process_transport", call, rank, peer,
                             detail::text("nothing for %g seconds: %s", patience_, what().c_str()).c_str());
    }
    if (!holds()) fail_if_failed(rank, call);
  }

  void fail_if_failed(int rank, const char* call) const {
    const int failed = failed_.load();
    if (failed >= 0) [[unlikely]]
      detail::fail_transport("in_process_transport", call, rank, failed,
                             failed == rank ? "this rank failed before" : "that rank failed");
  }

  void add(post_type* p) noexcept {
    p->previous = last_;
    (last_ != nullptr ? last_->next : first_) = p;
    last_ = p;
  }
  void remove(post_type* p) noexcept {
    (p->previous != nullptr ? p->previous->next : first_) = p->next;
    (p->next != nullptr ? p->next->previous : last_) = p->previous;
    p->previous = p->next = nullptr;
  }
  /// The oldest post that a new one is the other side of.
  post_type* partner_of(const post_type& p) const noexcept {
    for (post_type* other = first_; other != nullptr; other = other->next)
      if (other->sends != p.sends && other->from == p.from && other->to == p.to && other->tag == p.tag) return other;
    return nullptr;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<int> failed_{-1};
  post_type* first_ = nullptr;
  post_type* last_ = nullptr;
  double patience_;
  int size_ = 0;
  std::unique_ptr<in_process_transport[]> ranks_;
  // Of the collective call in progress.
  std::unique_ptr<share[]> shares_;
  int arrived_ = 0;
  index_t round_ = 0;
  const char* call_ = nullptr;
  index_t length_ = 0;
};

void in_process_transport::request::cancel() noexcept {
  if (!post_) return;
  using stage = detail::in_process_post::stage;
  in_process_group& group = *post_->group;
  {
    std::unique_lock<std::mutex> lock(group.mutex_);
    if (post_->state == stage::waiting) group.remove(post_.get());
    // Whoever copies finishes soon.
    group.changed_.wait(lock, [&] { return post_->state != stage::copying; });
  }
  post_.reset();
}

int in_process_transport::size() const noexcept { return group_->size(); }

in_process_transport::request in_process_transport::post(std::byte* data, index_t bytes, int from, int to, int tag,
                                                         bool sends, const char* call) {
  using stage = detail::in_process_post::stage;
  auto mine =
      std::make_unique<detail::in_process_post>(detail::in_process_post{group_, data, bytes, from, to, tag, sends});
  detail::in_process_post* other = nullptr;
  {
    const std::lock_guard<std::mutex> lock(group_->mutex_);
    group_->fail_if_failed(rank_, call);
    other = group_->partner_of(*mine);
    if (other == nullptr) {
      group_->add(mine.get());
      return request(std::move(mine));
    }
    group_->remove(other);
    detail::in_process_post& receiver = sends ? *other : *mine;
    const detail::in_process_post& sender = sends ? *mine : *other;
    if (receiver.bytes != sender.bytes) {
      mine->state = other->state = stage::done;
      receiver.state = stage::mismatched;
      receiver.other_bytes = sender.bytes;
      other = nullptr;
    } else {
      other->state = stage::copying;
    }
  }
  if (other != nullptr) {
    if (bytes > 0) std::memcpy(sends ? other->data : data, sends ? data : other->data, static_cast<std::size_t>(bytes));
    const std::lock_guard<std::mutex> lock(group_->mutex_);
    mine->state = other->state = stage::done;
  }
  group_->changed_.notify_all();
  return request(std::move(mine));
}

in_process_transport::request in_process_transport::isend(view<const std::byte, 1> from, int peer, int tag) {
  detail::check_message("in_process_transport", "isend", from, peer, tag, size());
  // Only read: what the post of a send points to is copied from.
  return post(const_cast<std::byte*>(from.data()), from.extent(0), rank_, peer, tag, true, "isend");
}

in_process_transport::request in_process_transport::irecv(view<std::byte, 1> to, int peer, int tag) {
  detail::check_message("in_process_transport", "irecv", to, peer, tag, size());
  return post(to.data(), to.extent(0), peer, rank_, tag, false, "irecv");
}

bool in_process_transport::finished(request& message, const char* call) {
  using stage = detail::in_process_post::stage;
  const detail::in_process_post& p = *message.post_;
  if (p.state == stage::mismatched) {
    const detail::text what("a message of %lld bytes for a buffer of %lld, tag %d",
                            static_cast<long long>(p.other_bytes), static_cast<long long>(p.bytes), p.tag);
    const int peer = p.from;
    message.post_.reset();
    detail::fail_transport("in_process_transport", call, rank_, peer, what.c_str());
  }
  if (p.state != stage::done) return false;
  message.post_.reset();
  return true;
}

void in_process_transport::wait(request& message) {
  using stage = detail::in_process_post::stage;
  if (!message.post_) return;
  const detail::in_process_post& p = *message.post_;
  std::unique_lock<std::mutex> lock(group_->mutex_);
  group_->wait_until(
      lock, rank_, p.sends ? p.to : p.from, "wait",
      [&] { return p.state == stage::done || p.state == stage::mismatched; },
      [&] {
        return detail::text("%s of %lld bytes, tag %d", p.sends ? "send" : "receive", static_cast<long long>(p.bytes),
                            p.tag);
      });
  finished(message, "wait");
}

void in_process_transport::wait_all(view<request, 1> messages) {
  for (index_t i = 0; i < messages.extent(0); ++i) wait(messages[i]);
}

bool in_process_transport::test(request& message) {
  if (!message.post_) return true;
  const std::lock_guard<std::mutex> lock(group_->mutex_);
  if (finished(message, "test")) return true;
  group_->fail_if_failed(rank_, "test");
  return false;
}

void in_process_transport::poll() { group_->fail_if_failed(rank_, "poll"); }

/// The last rank to arrive does the work for all, in the order of ranks: everybody gets the same bits.
template <class T, class Combine>
void in_process_transport::reduce(view<T, 1> values, const char* call, const Combine& combine) {
  in_process_group& group = *group_;
  const index_t length = values.extent(0);
  std::unique_lock<std::mutex> lock(group.mutex_);
  group.fail_if_failed(rank_, call);
  const bool fits = group.arrived_ == 0 || (std::strcmp(group.call_, call) == 0 && group.length_ == length);
  if (!fits) {
    const detail::text what("other ranks are in %s with another number of values", group.call_);
    lock.unlock();
    abort(1);
    detail::fail_transport("in_process_transport", call, rank_, -1, what.c_str());
  }
  group.call_ = call;
  group.length_ = length;
  group.shares_[static_cast<std::size_t>(rank_)].values = &values;
  const index_t round = group.round_;
  if (++group.arrived_ < size()) {
    group.wait_until(
        lock, rank_, -1, call, [&] { return group.round_ != round; },
        [] { return detail::text("not all ranks are in this call"); });
    return;
  }
  const auto of = [&](int r) -> view<T, 1>& {
    return *static_cast<view<T, 1>*>(group.shares_[static_cast<std::size_t>(r)].values);
  };
  for (index_t i = 0; i < length; ++i) {
    T all = of(0)[i];
    for (int r = 1; r < size(); ++r) all = combine(all, of(r)[i]);
    for (int r = 0; r < size(); ++r) of(r)[i] = all;
  }
  group.arrived_ = 0;
  ++group.round_;
  lock.unlock();
  group.changed_.notify_all();
}

void in_process_transport::allreduce_sum(view<float, 1> values) {
  reduce(values, "allreduce_sum", [](float a, float b) { return a + b; });
}

void in_process_transport::allreduce_sum(view<double, 1> values) {
  reduce(values, "allreduce_sum of doubles", [](double a, double b) { return a + b; });
}

void in_process_transport::allreduce_max(view<std::uint64_t, 1> values) {
  reduce(values, "allreduce_max", [](std::uint64_t a, std::uint64_t b) { return a > b ? a : b; });
}

void in_process_transport::barrier() {
  reduce(view<std::uint64_t, 1>{}, "barrier", [](std::uint64_t a, std::uint64_t) { return a; });
}

void in_process_transport::abort(int) noexcept {
  int none = -1;
  {
    const std::lock_guard<std::mutex> lock(group_->mutex_);
    group_->failed_.compare_exchange_strong(none, rank_);
  }
  group_->changed_.notify_all();
}

static_assert(transport<in_process_transport>);

HEED_ARCH_END
