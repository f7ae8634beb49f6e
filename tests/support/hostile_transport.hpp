/// A transport that counts what passes, and that can be slow, out of order and faulty.
#pragma once

#include <heed/core/in_process.hpp>

#include <chrono>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

namespace support {

using heed::index_t;

/// What goes wrong with message `number` that rank `rank` sends.
struct fault {
  enum class kind { none, raise, lose, shorten };
  kind what = kind::none;
  int rank = 0;
  int number = 0;
};

struct hostility {
  /// Posts are held back and made in an order of their own, and ranks sleep: 0 for neither.
  unsigned seed = 0;
  fault mishap{};
};

/// Thrown in place of a send.
struct mishap : std::runtime_error {
  mishap() : std::runtime_error("a send failed") {}
};

/// One rank. Messages of equal peer, tag and direction keep their order, as the contract has it.
class hostile_transport {
  using inner_request = heed::in_process_transport::request;
  struct post {
    std::function<inner_request()> make;
    std::optional<inner_request> made{};
    int peer, tag;
    bool sends;
  };

 public:
  class request {
   public:
    request() = default;
    request(request&& other) noexcept = default;
    request& operator=(request&& other) noexcept {
      drop();
      post_ = std::move(other.post_);
      return *this;
    }
    ~request() { drop(); }

   private:
    friend class hostile_transport;
    explicit request(std::shared_ptr<post> p) : post_(std::move(p)) {}
    void drop() noexcept {
      if (post_) post_->make = nullptr, post_->made.reset();
      post_.reset();
    }
    std::shared_ptr<post> post_;
  };

  hostile_transport(heed::in_process_transport& inner, const hostility& how)
      : inner_(inner), how_(how), random_(how.seed + 977u * static_cast<unsigned>(inner.rank())) {}

  int rank() const { return inner_.rank(); }
  int size() const { return inner_.size(); }

  request isend(heed::view<const std::byte, 1> from, int peer, int tag) {
    sent.push_back({peer, tag, from.extent(0)});
    const bool now = how_.mishap.rank == rank() && how_.mishap.number == static_cast<int>(sent.size()) - 1;
    if (now && how_.mishap.what == fault::kind::raise) throw mishap();
    if (now && how_.mishap.what == fault::kind::lose) return {};
    if (now && how_.mishap.what == fault::kind::shorten) from = from.slice(0, 0, from.extent(0) - 1);
    return hold({[this, from, peer, tag] { return inner_.isend(from, peer, tag); }, {}, peer, tag, true});
  }
  request irecv(heed::view<std::byte, 1> to, int peer, int tag) {
    return hold({[this, to, peer, tag] { return inner_.irecv(to, peer, tag); }, {}, peer, tag, false});
  }
  void wait(request& message) {
    release();
    if (message.post_) --under_way_[message.post_->tag & 1];
    if (message.post_ && message.post_->made) inner_.wait(*message.post_->made);
    message.drop();
  }
  void wait_all(heed::view<request, 1> messages) {
    for (index_t i = 0; i < messages.extent(0); ++i) wait(messages[i]);
  }
  bool test(request& message) {
    release();
    if (!message.post_ || !message.post_->made || inner_.test(*message.post_->made)) {
      if (message.post_) --under_way_[message.post_->tag & 1];
      message.drop();
      return true;
    }
    return false;
  }
  void poll() {
    ++polls;
    for (int odd = 0; odd < 2; ++odd) polls_with_messages[odd] += under_way_[odd] > 0;
    if (how_.seed != 0 && random_() % 2 == 0) release();
    inner_.poll();
  }
  void allreduce_sum(heed::view<float, 1> values) {
    ++collectives;
    inner_.allreduce_sum(values);
  }
  void allreduce_sum(heed::view<double, 1> values) {
    ++collectives;
    inner_.allreduce_sum(values);
  }
  void allreduce_max(heed::view<std::uint64_t, 1> values) {
    ++collectives;
    inner_.allreduce_max(values);
  }
  void barrier() {
    ++collectives;
    inner_.barrier();
  }
  void abort(int code) noexcept { inner_.abort(code); }

  struct sent_message {
    int peer, tag;
    index_t bytes;
  };
  std::vector<sent_message> sent;
  int polls = 0, collectives = 0;
  /// Polls while messages of even and of odd tags were posted and not yet waited for.
  int polls_with_messages[2] = {};

 private:
  request hold(post p) {
    ++under_way_[p.tag & 1];
    auto shared = std::make_shared<post>(std::move(p));
    held_.push_back(shared);
    if (how_.seed == 0) release();
    return request(std::move(shared));
  }

  /// Makes the posts that were held back, in any order that leaves messages of one kind in theirs.
  void release() {
    while (!held_.empty()) {
      auto chosen = held_.begin();
      if (how_.seed != 0) {
        std::advance(chosen, static_cast<std::ptrdiff_t>(random_() % held_.size()));
        std::this_thread::sleep_for(std::chrono::microseconds(random_() % 200));
      }
      const auto first = std::find_if(held_.begin(), held_.end(), [&](const auto& other) {
        return other->peer == (*chosen)->peer && other->tag == (*chosen)->tag && other->sends == (*chosen)->sends;
      });
      const std::shared_ptr<post> p = *first;
      held_.erase(first);
      if (p->make) p->made.emplace(p->make());
    }
  }

  heed::in_process_transport& inner_;
  hostility how_;
  std::minstd_rand random_;
  std::list<std::shared_ptr<post>> held_;
  int under_way_[2] = {};
};

static_assert(heed::transport<hostile_transport>);

}  // namespace support
