#include "support/catch.hpp"
#include "support/refusal.hpp"

#include <heed/core/in_process.hpp>
#include <heed/core/tensor.hpp>

#include <atomic>
#include <stdexcept>
#include <string>

using heed::in_process_group;
using heed::in_process_transport;
using heed::index_t;

namespace {

template <class T>
heed::view<std::byte, 1> bytes_of(T& value, index_t count = sizeof(T)) {
  return {reinterpret_cast<std::byte*>(&value), {count}};
}

template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const heed::transport_error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("messages of one kind arrive in order, whoever posts first, and kinds do not mix") {
  in_process_group group(2, 60);
  std::atomic<bool> right = true;
  group.run([&](in_process_transport& ranks) {
    const int other = 1 - ranks.rank();
    int sent[6], got[6] = {};
    for (int i = 0; i < 6; ++i) sent[i] = 10 * ranks.rank() + i;
    in_process_transport::request out[6], in[6];
    if (ranks.rank() == 1) ranks.barrier();  // Rank 0 posts all before rank 1 posts any.
    for (int i = 0; i < 6; ++i) out[i] = ranks.isend(bytes_of(sent[i]), other, i % 2);
    for (int i = 5; i >= 0; --i) {
      // Tag 1 before tag 0; within a tag in order.
      const int at = i % 2 == 1 ? 5 - i + 1 : 4 - i;
      in[at] = ranks.irecv(bytes_of(got[at]), other, at % 2);
    }
    if (ranks.rank() == 0) ranks.barrier();
    ranks.wait_all({in, {6}});
    ranks.wait_all({out, {6}});
    for (int i = 0; i < 6; ++i)
      if (got[i] != 10 * other + i) right = false;
  });
  CHECK(right);
}

TEST_CASE("a message goes when its other side is there, and test tells") {
  in_process_group group(2);
  int sent = 7, got = 0, self = 0;
  auto in = group.rank(1).irecv(bytes_of(got), 0, 3);
  CHECK_FALSE(group.rank(1).test(in));
  auto wrong = group.rank(0).isend(bytes_of(sent), 1, 4);
  CHECK_FALSE(group.rank(1).test(in));
  auto out = group.rank(0).isend(bytes_of(sent), 1, 3);
  CHECK(group.rank(0).test(out));
  CHECK(group.rank(1).test(in));
  CHECK(group.rank(1).test(in));
  CHECK(got == 7);
  auto to_self = group.rank(0).irecv(bytes_of(self), 0, 0);
  auto from_self = group.rank(0).isend(bytes_of(sent), 0, 0);
  group.rank(0).wait(to_self);
  CHECK(self == 7);
  auto none = group.rank(0).isend({}, 1, 5);
  auto nothing = group.rank(1).irecv({}, 0, 5);
  CHECK(group.rank(1).test(nothing));
  in_process_transport::request idle;
  CHECK(group.rank(0).test(idle));
  group.rank(0).wait(idle);
}

TEST_CASE("a request that goes away takes its message with it") {
  in_process_group group(2);
  int first = 1, second = 2, got = 0;
  {
    auto dropped = group.rank(0).isend(bytes_of(first), 1, 0);
  }
  {
    auto dropped = group.rank(1).irecv(bytes_of(got), 0, 1);
  }
  auto replaced = group.rank(0).isend(bytes_of(first), 1, 0);
  replaced = group.rank(0).isend(bytes_of(second), 1, 0);
  auto in = group.rank(1).irecv(bytes_of(got), 0, 0);
  CHECK(group.rank(1).test(in));
  CHECK(got == 2);
}

TEST_CASE("a message of another size is the receiver's error") {
  in_process_group group(2);
  int sent[2] = {1, 2}, got = 0;
  auto out = group.rank(0).isend(bytes_of(sent), 1, 0);
  auto in = group.rank(1).irecv(bytes_of(got), 0, 0);
  CHECK(group.rank(0).test(out));
  const std::string said = error_of([&] { group.rank(1).wait(in); });
  CHECK(said == "heed::in_process_transport::wait: rank 1, peer 0: a message of 8 bytes for a buffer of 4, tag 0");
  CHECK(got == 0);
}

TEST_CASE("reductions give all ranks the same bits, in the order of ranks") {
  in_process_group group(5, 60);
  const float parts[5] = {1e8f, 1, -1e8f, 3, 0.1f};
  float expected = parts[0];
  for (int r = 1; r < 5; ++r) expected += parts[r];
  std::atomic<bool> right = true;
  for (int round = 0; round < 20; ++round)
    group.run([&](in_process_transport& ranks) {
      const auto r = static_cast<std::uint64_t>(ranks.rank());
      float x[2] = {parts[r], 1};
      double y = 0.5;
      std::uint64_t most[2] = {r, ~r};
      ranks.allreduce_sum(heed::view<float, 1>(x, {2}));
      ranks.allreduce_sum(heed::view<double, 1>(&y, {1}));
      ranks.allreduce_max({most, {2}});
      ranks.barrier();
      if (x[0] != expected || x[1] != 5 || y != 2.5 || most[0] != 4 || ~most[1] != 0) right = false;
    });
  CHECK(right);
}

TEST_CASE("a rank that fails wakes all that wait, and its exception comes out of run") {
  for (int form = 0; form < 3; ++form) {
    in_process_group group(3);
    std::atomic<int> woken = 0;
    const auto work = [&](in_process_transport& ranks) {
      if (ranks.rank() == 1) throw std::runtime_error("lost");
      int x = 0;
      const std::string said = error_of([&] {
        if (form == 0) ranks.barrier();
        auto in = ranks.irecv(bytes_of(x), 1, 0);
        if (form == 1) ranks.wait(in);
        while (!ranks.test(in)) ranks.poll();
      });
      woken += said.find("peer 1: that rank failed") != std::string::npos;
    };
    CHECK_THROWS_WITH(group.run(work), "lost");
    CHECK(woken == 2);
    CHECK(error_of([&] { group.rank(0).barrier(); }).find("peer 1") != std::string::npos);
  }
}

TEST_CASE("what comes out of run is the exception of the rank that is the cause") {
  enum class end { cause, echo, told, none };
  // Rank 0 fails first, the others when they hear of it.
  const auto thrown = [](end zero, end one, end two) -> std::string {
    in_process_group group(3);
    const end ends[] = {zero, one, two};
    try {
      group.run([&](in_process_transport& ranks) {
        const end own = ends[ranks.rank()];
        const auto listen = [&] {
          for (;;) ranks.poll();
        };
        if (own == end::told) listen();
        if (ranks.rank() > 0) error_of(listen);
        if (own == end::cause) throw heed::invalid_argument("cause");
        if (own == end::echo) throw heed::refused_elsewhere("echo", 2);
      });
    } catch (const std::exception& error) {
      return error.what();
    }
    return "nothing";
  };
  CHECK(thrown(end::echo, end::echo, end::cause) == "cause");
  CHECK(thrown(end::echo, end::told, end::cause) == "cause");
  CHECK(thrown(end::echo, end::cause, end::none) == "cause");
  CHECK(thrown(end::cause, end::echo, end::told) == "cause");
  CHECK(thrown(end::echo, end::told, end::none) == "echo");
}

TEST_CASE("patience ends") {
  in_process_group group(2, 0.05);
  int x = 0;
  auto in = group.rank(0).irecv(bytes_of(x), 1, 0);
  CHECK(error_of([&] { group.rank(0).wait(in); }) ==
        "heed::in_process_transport::wait: rank 0, peer 1: nothing for 0.05 seconds: receive of 4 bytes, tag 0");
  in_process_group alone(2, 0.05);
  CHECK(error_of([&] { alone.rank(1).barrier(); }) ==
        "heed::in_process_transport::barrier: rank 1: nothing for 0.05 seconds: not all ranks are in this call");
}

TEST_CASE("ranks that are in different collective calls find out") {
  in_process_group group(2, 60);
  std::atomic<int> errors = 0;
  group.run([&](in_process_transport& ranks) {
    float x = 0;
    errors += error_of([&] {
                if (ranks.rank() == 0)
                  ranks.barrier();
                else
                  ranks.allreduce_sum(heed::view<float, 1>(&x, {1}));
              }) != "no error";
  });
  CHECK(errors == 2);
}

TEST_CASE("bad posts are refused") {
  using support::check_refusal;
  in_process_group group(2);
  int x = 0;
  check_refusal("in_process_group", {"size", "0"}, [] { in_process_group none(0); });
  check_refusal("in_process_group", {"patience", "-1"}, [] { in_process_group none(1, -1); });
  check_refusal("in_process_transport::isend", {"peer", "below 2", "2"},
                [&] { group.rank(0).isend(bytes_of(x), 2, 0); });
  check_refusal("in_process_transport::irecv", {"tag", "32767", "-1"},
                [&] { group.rank(0).irecv(bytes_of(x), 1, -1); });
  check_refusal("in_process_transport::irecv", {"bytes", "null"},
                [&] { group.rank(0).irecv(heed::view<std::byte, 1>(nullptr, {3}), 1, 0); });
}
