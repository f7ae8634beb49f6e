/// A transport that counts what passes through another one, and how long it is waited for.
#pragma once

#include <heed/core/transport.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace long_context {

using heed::index_t;

template <heed::transport Inner>
class metered {
 public:
  using request = typename Inner::request;
  using clock = std::chrono::steady_clock;

  /// on_send is called whenever a message leaves.
  metered(Inner& inner, std::function<void()> on_send) : inner_(inner), on_send_(std::move(on_send)) {}

  index_t bytes_sent() const { return bytes_sent_; }
  double seconds_waited() const { return std::chrono::duration<double>(waited_).count(); }

  int rank() const { return inner_.rank(); }
  int size() const { return inner_.size(); }
  request isend(heed::view<const std::byte, 1> from, int peer, int tag) {
    bytes_sent_ += from.extent(0);
    on_send_();
    return inner_.isend(from, peer, tag);
  }
  request irecv(heed::view<std::byte, 1> to, int peer, int tag) { return inner_.irecv(to, peer, tag); }
  void wait(request& message) {
    timed([&] { inner_.wait(message); });
  }
  void wait_all(heed::view<request, 1> messages) {
    timed([&] { inner_.wait_all(messages); });
  }
  bool test(request& message) { return inner_.test(message); }
  void poll() { inner_.poll(); }
  void allreduce_sum(heed::view<float, 1> values) { inner_.allreduce_sum(values); }
  void allreduce_sum(heed::view<double, 1> values) { inner_.allreduce_sum(values); }
  void allreduce_max(heed::view<std::uint64_t, 1> values) { inner_.allreduce_max(values); }
  void barrier() { inner_.barrier(); }
  void abort(int code) noexcept { inner_.abort(code); }

 private:
  template <class F>
  void timed(const F& f) {
    const auto start = clock::now();
    f();
    waited_ += clock::now() - start;
  }

  Inner& inner_;
  std::function<void()> on_send_;
  index_t bytes_sent_ = 0;
  clock::duration waited_{};
};

}  // namespace long_context
