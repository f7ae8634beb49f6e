#include "ops/ring/ring.hpp"
#include "support/catch.hpp"
#include "support/shuffling_executor.hpp"

#include <atomic>
#include <string>

using namespace ring_test;
using support::fault;

namespace {

using problem = backward_problem<float>;
using options = softmax_backward_options<float>;

constexpr softmax_test::shape usual{2, 4, 2, 50, 50, 6, 5};

/// Bytes of the keys and values of a rank.
index_t shard_bytes(const problem& p, const token_layout& l, int rank) {
  return p.k.extent(0) * p.k.extent(1) * l.count(rank) * (p.k.extent(3) + p.v.extent(3)) * index_t(sizeof(float));
}

}  // namespace

TEST_CASE("each rank sends P - 1 shards forward, and P - 1 shards and P sums of gradients back") {
  for (const int P : {2, 3, 8})
    for (const deal how : all_deals) {
      problem p(usual);
      ring_run run{deal_out(how, 50, P), deal_out(how, 50, P)};
      solve_ring(p, run, options{});
      for (int r = 0; r < P; ++r) {
        const auto& sent = run.sent[static_cast<std::size_t>(r)];
        REQUIRE(int(sent.size()) == 3 * P - 2);
        CHECK(run.forward_messages[static_cast<std::size_t>(r)] == P - 1);
        int keys = 0, sums = 0;
        for (const auto& message : sent) {
          CHECK(message.peer == (r + 1) % P);
          const int step = message.tag == 0 ? keys++ % (P - 1) : sums++;
          CHECK(message.bytes == shard_bytes(p, run.kv.layout, (r + P - step) % P));
        }
        CHECK(keys == 2 * (P - 1));
        CHECK(sums == P);
      }
    }
}

TEST_CASE("a window over contiguous shards ends the ring when nobody sees later keys, with the same bits") {
  // Shards of 10: a query reaches ceil(left / 10) shards back.
  for (const index_t left : {0, 1, 10, 11, 25, 70}) {
    problem p(softmax_test::shape{1, 2, 1, 80, 80, 6, 5}), whole(softmax_test::shape{1, 2, 1, 80, 80, 6, 5});
    ring_run run{deal_out(deal::contiguous, 80, 8), deal_out(deal::contiguous, 80, 8)};
    const options o{.window_left = left, .window_right = 0};
    const int steps = static_cast<int>((left + 9) / 10);
    solve_ring(p, run, o);
    for (int r = 0; r < 8; ++r) {
      CHECK(run.forward_messages[static_cast<std::size_t>(r)] == steps);
      const auto& sent = run.sent[static_cast<std::size_t>(r)];
      CHECK(int(sent.size()) == 2 * steps + (steps > 0 ? steps + 1 : 0));
      if (steps > 0) CHECK(sent.back().peer == (r + 8 - steps) % 8);
    }
    // A mask that tells nothing of tiles keeps the ring going.
    ring_run far{deal_out(deal::contiguous, 80, 8), deal_out(deal::contiguous, 80, 8)};
    solve_ring(whole, far, options{}, [left](heed::position at) { return at.kv <= at.q && at.kv >= at.q - left; });
    CHECK(far.forward_messages[0] == 7);
    CAPTURE(left);
    CHECK(softmax_test::same_result<float>(p, whole));
    CHECK(softmax_test::same_bits<float, 4>(p.dk, whole.dk));
    CHECK(softmax_test::same_bits<float, 4>(p.dq, whole.dq));
  }
}

TEST_CASE("results do not depend on the speed and the order of messages, nor on who computes") {
  problem calm(usual);
  const options o{.window_right = 0};
  ring_run run{deal_out(deal::zigzag, 50, 4), deal_out(deal::striped, 50, 4)};
  solve_ring(calm, run, o);
  for (const unsigned seed : {1u, 2u, 3u, 4u, 5u}) {
    problem wild(usual);
    run.how.seed = seed;
    solve_ring(wild, run, o);
    CHECK(same_results(wild, calm));
  }
  run.how.seed = 0;
  for (const index_t workers : {1, 2, 7}) {
    problem p(usual);
    // Stateless but for its orders, so all ranks may use it at once.
    support::shuffling_executor shuffled(support::shuffling_executor::order::shuffled, workers);
    options by = o;
    by.executor = heed::executor(shuffled);
    solve_ring(p, run, by);
    CHECK(same_results(p, calm));
  }
}

TEST_CASE("messages are under way, and the transport gets time, while tiles are computed") {
  problem p(softmax_test::shape{1, 1, 1, 600, 1500, 6, 5});
  ring_run run{deal_out(deal::contiguous, 600, 2), deal_out(deal::contiguous, 1500, 2)};
  solve_ring(p, run, options{});
  for (const auto& polls : run.overlapped) {
    CHECK(polls[0] > 0);
    CHECK(polls[1] > 0);
    CHECK(polls[2] > 0);
  }
}

TEST_CASE("whatever goes wrong on one rank, all ranks throw, and none waits") {
  for (const int rank : {0, 2})
    // Messages that everybody comes to need: later ones of backward are missed by some ranks alone.
    for (const int number : {0, 1, 3})
      for (const auto kind : {fault::kind::raise, fault::kind::shorten, fault::kind::lose}) {
        problem p(usual);
        const owned_layout l = deal_out(deal::striped, 50, 4);
        heed::in_process_group group(4, kind == fault::kind::lose ? 0.2 : 60);
        int wrong = 0, failed = 0, told = 0;
        std::mutex one;
        group.run([&](heed::in_process_transport& plain) {
          support::hostile_transport transport(plain, {.seed = 1, .mishap = {kind, rank, number}});
          shard<float> own(p, l.layout, l.layout, transport.rank());
          heed::ring_backward_options<float> o{.layout = l.layout, .executor = heed::serial()};
          heed::ring_options<float> f = forward_options(o);
          f.lse = own.lse;
          const shard<float> before = own;
          bool threw = false;
          try {
            heed::ring_forward(transport, own.q, own.k, own.v, own.out, f);
            heed::ring_backward(transport, own.q, own.k, own.v, own.out, own.lse, own.dout, own.dq, own.dk, own.dv, o);
          } catch (const heed::transport_error& error) {
            threw = true;
            const std::lock_guard<std::mutex> lock(one);
            told += error.rank() == transport.rank() && error.peer() >= -1 && error.peer() < 4 &&
                    std::string(error.what()).find("rank " + std::to_string(error.rank())) != std::string::npos;
          } catch (const support::mishap&) {
            threw = true;
            const std::lock_guard<std::mutex> lock(one);
            ++failed;
          }
          const std::lock_guard<std::mutex> lock(one);
          wrong += !threw || !softmax_test::same_bits<float, 4>(own.q, before.q) ||
                   !softmax_test::same_bits<float, 4>(own.k, before.k);
        });
        CAPTURE(rank, number, int(kind));
        CHECK(wrong == 0);
        CHECK(failed == (kind == fault::kind::raise ? 1 : 0));
        CHECK(failed + told == 4);
      }
}

TEST_CASE("what a mod throws comes out of its rank, and the others hear of it") {
  problem p(usual);
  const owned_layout l = deal_out(deal::contiguous, 50, 3);
  // A key of its own shard, so at once; one of the last shard that comes to it, which others may not need it for.
  for (const int thrown_at : {20, 40}) {
    heed::in_process_group group(3, 60);
    std::atomic<int> own_error = 0, others = 0, later = 0;
    group.run([&](heed::in_process_transport& plain) {
      support::hostile_transport transport(plain, {});
      shard<float> own(p, l.layout, l.layout, transport.rank());
      const bool throws = transport.rank() == 1;
      try {
        heed::ring_forward(transport, own.q, own.k, own.v, own.out, {.layout = l.layout, .executor = heed::serial()},
                           [=](heed::position at) {
                             if (throws && at.kv == thrown_at) throw 7;
                             return true;
                           });
      } catch (int) {
        ++own_error;
      } catch (const heed::transport_error& error) {
        others += error.peer() == 1;
      }
      try {
        transport.barrier();
      } catch (const heed::transport_error& error) {
        later += error.peer() == 1;
      }
    });
    CAPTURE(thrown_at);
    CHECK(own_error == 1);
    if (thrown_at == 20) CHECK(others == 2);
    CHECK(later == 3);
  }
}

namespace {

/// Sees all, and throws on one rank when it is asked about tiles, as happens before anything is sent.
struct failing_mask {
  bool throws;

  bool operator()(const heed::position&) const { return true; }
  heed::tile_class classify(int, int, int, int, int, int) const {
    if (throws) throw 7;
    return heed::tile_class::full;
  }
};

}  // namespace

TEST_CASE("a rank that fails before it knows whether all agree holds nobody up") {
  problem p(usual);
  const owned_layout l = deal_out(deal::zigzag, 50, 3);
  heed::in_process_group group(3, 5);
  std::atomic<int> own_error = 0, others = 0;
  group.run([&](heed::in_process_transport& plain) {
    support::hostile_transport transport(plain, {});
    shard<float> own(p, l.layout, l.layout, transport.rank());
    try {
      heed::ring_forward(transport, own.q, own.k, own.v, own.out, {.layout = l.layout, .executor = heed::serial()},
                         failing_mask{transport.rank() == 2});
    } catch (int) {
      ++own_error;
    } catch (const heed::transport_error& error) {
      others += error.peer() == 2;
    }
  });
  CHECK(own_error == 1);
  CHECK(others == 2);
}

TEST_CASE("two rings may go round at once on tags of their own") {
  problem p(usual), one(usual), two(usual);
  const owned_layout l = deal_out(deal::striped, 50, 2);
  heed::in_process_group group(2, 60);
  // Two transports a rank over one group: what one posts, only the same tags of the other side match.
  group.run([&](heed::in_process_transport& plain) {
    const int r = plain.rank();
    std::thread other([&] {
      heed::in_process_transport copy = plain;
      shard<float> own(p, l.layout, l.layout, r);
      for (int i = 0; i < 20; ++i) {
        std::byte sent{static_cast<unsigned char>(i)}, got{};
        auto in = copy.irecv({&got, {1}}, 1 - r, 9);
        auto out = copy.isend({&sent, {1}}, 1 - r, 9);
        copy.wait(in);
        copy.wait(out);
        if (got != sent) throw std::logic_error("messages were mixed up");
      }
    });
    support::hostile_transport transport(plain, {.seed = 3});
    shard<float> own(p, l.layout, l.layout, r);
    heed::ring_forward(transport, own.q, own.k, own.v, own.out,
                       {.layout = l.layout, .lse = own.lse, .tag = 3, .executor = heed::serial()});
    other.join();
    heed::from_layout(own.out, one.out, l.layout, r);
    heed::from_layout(own.lse, one.lse, l.layout, r);
  });
  ring_run run{deal_out(deal::striped, 50, 2), deal_out(deal::striped, 50, 2)};
  solve_ring(two, run, options{});
  CHECK(softmax_test::same_result<float>(one, two));
}
