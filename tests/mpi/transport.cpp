// heed::mpi_transport against what heed/core/transport.hpp asks of a transport.
#include "mpi/ranks.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using Catch::Matchers::ContainsSubstring;
using heed::index_t;
using request = heed::mpi_transport::request;

/// Bytes that tell who sent them, and when.
std::vector<unsigned char> text_of(index_t bytes, int from, int number) {
  std::vector<unsigned char> text(static_cast<std::size_t>(bytes));
  for (std::size_t i = 0; i < text.size(); ++i)
    text[i] = static_cast<unsigned char>(static_cast<int>(i) * 7 + from * 31 + number * 13 + 1);
  return text;
}

heed::view<std::byte, 1> bytes_of(std::vector<unsigned char>& text) {
  return mpi::bytes_of(text.data(), static_cast<index_t>(text.size()));
}

}  // namespace

TEST_CASE("mpi: ranks add up values, take the largest, and wait for each other") {
  heed::mpi_transport ranks(MPI_COMM_WORLD, mpi::patient());
  const int P = ranks.size();
  int world_rank = -1, world_size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
  MPI_Comm_size(MPI_COMM_WORLD, &world_size);
  CHECK(ranks.rank() == world_rank);
  CHECK(P == world_size);

  // More than one piece of a reduction, in every other element of memory.
  const index_t n = (index_t{1} << 20) + 3;
  std::vector<float> floats(2 * static_cast<std::size_t>(n), -1.0f);
  const heed::view<float, 1> every_other(floats.data(), {n}, {2});
  for (index_t i = 0; i < n; ++i) every_other[i] = static_cast<float>(i % 100 + ranks.rank());
  ranks.allreduce_sum(every_other);
  bool right = true;
  for (index_t i = 0; i < n; ++i)
    right = right && every_other[i] == static_cast<float>(P * (i % 100) + P * (P - 1) / 2) &&
            floats[2 * static_cast<std::size_t>(i) + 1] == -1.0f;
  CHECK(right);

  double sum = 1.0 / (1 + ranks.rank());
  ranks.allreduce_sum(heed::view<double, 1>(&sum, {1}));
  double expected = 0;
  for (int r = 0; r < P; ++r) expected += 1.0 / (1 + r);
  CHECK(sum == Catch::Approx(expected).epsilon(1e-15));

  std::uint64_t most[] = {~std::uint64_t{0} - static_cast<std::uint64_t>(ranks.rank()), 5};
  ranks.allreduce_max(heed::view<std::uint64_t, 1>(most, {2}));
  CHECK(most[0] == ~std::uint64_t{0});
  CHECK(most[1] == 5);
  ranks.allreduce_sum(heed::view<float, 1>());
  ranks.barrier();
}

TEST_CASE("mpi: messages of a source and a tag keep their order, whatever the order of the posts") {
  // In one piece, and in pieces of 64 bytes.
  for (const index_t piece : {index_t{1} << 30, index_t{64}}) {
    heed::mpi_transport ranks(MPI_COMM_WORLD, mpi::patient({.piece_bytes = piece}));
    const index_t sizes[] = {100, 0, 64, piece == 64 ? 1000 : 200000, 128, 63};
    const int tags[] = {0, 32767}, P = ranks.size(), each = 6;
    std::vector<std::vector<unsigned char>> sent, received;
    std::vector<request> sends, receives;
    // Receives before sends on odd ranks, after them on the others; to oneself too.
    const auto post = [&](bool sending) {
      for (const int tag : sending ? std::vector<int>{tags[0], tags[1]} : std::vector<int>{tags[1], tags[0]})
        for (int peer = 0; peer < P; ++peer)
          for (int i = 0; i < each; ++i) {
            if (sending) {
              sent.push_back(text_of(sizes[i], ranks.rank(), i + tag));
              sends.push_back(ranks.isend(bytes_of(sent.back()), peer, tag));
            } else {
              received.push_back(std::vector<unsigned char>(static_cast<std::size_t>(sizes[i])));
              receives.push_back(ranks.irecv(bytes_of(received.back()), peer, tag));
            }
          }
    };
    post(ranks.rank() % 2 == 0);
    post(ranks.rank() % 2 != 0);
    // Last ones first, by every way to wait.
    for (auto r = receives.rbegin(); r != receives.rend(); ++r)
      while (!ranks.test(*r)) ranks.poll();
    ranks.wait_all(heed::view<request, 1>(sends.data(), {static_cast<index_t>(sends.size())}));
    for (request& r : receives) ranks.wait(r);
    std::size_t at = 0;
    bool right = true;
    for (const int tag : {tags[1], tags[0]})
      for (int peer = 0; peer < P; ++peer)
        for (int i = 0; i < each; ++i) right = right && received[at++] == text_of(sizes[i], peer, i + tag);
    CHECK(right);
  }
}

TEST_CASE("mpi: a message of another size than its buffer is an error of the receiver, in pieces too") {
  const std::pair<index_t, index_t> sizes[] = {{3, 5}, {5, 3}, {8, 4}, {4, 8},  {0, 4},
                                               {4, 0}, {9, 5}, {8, 9}, {12, 4}, {1 << 21, 1 << 20}};
  for (const index_t piece : {index_t{1} << 30, index_t{4}})
    for (const auto& [sent, expected] : sizes) {
      heed::mpi_transport ranks(MPI_COMM_WORLD, mpi::patient({.piece_bytes = piece}));
      if (ranks.size() < 2) return;
      if (piece == 4 && sent > 100) continue;
      CAPTURE(piece, sent, expected);
      auto text = text_of(std::max(sent, expected), ranks.rank(), 0);
      const auto bytes = bytes_of(text);
      if (ranks.rank() == 0) {
        request message = ranks.isend({bytes.data(), {sent}}, 1, 3);
      } else if (ranks.rank() == 1) {
        request message = ranks.irecv({bytes.data(), {expected}}, 0, 3);
        const std::string said = mpi::said_by([&] { ranks.wait(message); });
        CHECK_THAT(said, ContainsSubstring("heed::mpi_transport::wait: rank 1, peer 0: a message of "));
        CHECK_THAT(said, ContainsSubstring(" for a buffer of " + std::to_string(expected) + ", tag 3"));
        // Nothing is written past the buffer, whatever has come.
        const auto untouched = text_of(std::max(sent, expected), 1, 0);
        CHECK(std::equal(text.begin() + expected, text.end(), untouched.begin() + expected));
        CHECK_THAT(mpi::said_by([&] { ranks.poll(); }), ContainsSubstring("this rank failed before"));
      }
    }
}

TEST_CASE("mpi: a request completes or cancels its message before it goes") {
  heed::mpi_transport ranks(MPI_COMM_WORLD, mpi::patient());
  if (ranks.size() < 2) return;
  const index_t long_one = 1 << 22;
  if (ranks.rank() == 0) {
    auto text = text_of(long_one, 0, 0), next = text_of(long_one, 0, 1);
    ranks.barrier();
    {
      request message = ranks.isend(bytes_of(text), 1, 0);
      message = request();  // waits for the receiver
      message = ranks.isend(bytes_of(next), 1, 0);
      request moved = std::move(message);
      CHECK(ranks.test(message));
    }
    next.assign(next.size(), 0);
  } else if (ranks.rank() == 1) {
    std::vector<unsigned char> cancelled(static_cast<std::size_t>(long_one)), first = cancelled, second = cancelled;
    request none = ranks.irecv(bytes_of(cancelled), 0, 0), a = ranks.irecv(bytes_of(first), 0, 0);
    none = request();
    request b = ranks.irecv(bytes_of(second), 0, 0);
    ranks.barrier();
    ranks.wait(b);
    ranks.wait(a);
    CHECK(first == text_of(long_one, 0, 0));
    CHECK(second == text_of(long_one, 0, 1));
    CHECK(std::accumulate(cancelled.begin(), cancelled.end(), 0) == 0);
  } else {
    ranks.barrier();
  }
}

TEST_CASE("mpi: transports of one communicator and the program's own messages never meet") {
  heed::mpi_transport one(MPI_COMM_WORLD, mpi::patient()), other(MPI_COMM_WORLD, mpi::patient());
  const int P = one.size(), next = (one.rank() + 1) % P, previous = (one.rank() + P - 1) % P;
  int sent[] = {one.rank(), 100 + one.rank(), 200 + one.rank()}, got[] = {-1, -1, -1};
  MPI_Request own[2];
  MPI_Irecv(&got[0], 1, MPI_INT, previous, 5, MPI_COMM_WORLD, &own[0]);
  request receives[] = {other.irecv(mpi::bytes_of(&got[2], 1), previous, 5),
                        one.irecv(mpi::bytes_of(&got[1], 1), previous, 5)};
  request sends[] = {one.isend(mpi::bytes_of(&sent[1], 1), next, 5), other.isend(mpi::bytes_of(&sent[2], 1), next, 5)};
  MPI_Isend(&sent[0], 1, MPI_INT, next, 5, MPI_COMM_WORLD, &own[1]);
  other.wait(receives[0]);
  one.wait(receives[1]);
  one.wait(sends[0]);
  other.wait(sends[1]);
  MPI_Waitall(2, own, MPI_STATUSES_IGNORE);
  CHECK(got[0] == previous);
  CHECK(got[1] == 100 + previous);
  CHECK(got[2] == 200 + previous);
}

TEST_CASE("mpi: what others wait for throws when a rank fails, and unwanted messages hold nobody up") {
  const char* const waits[] = {"a message", "a long send", "a barrier", "a sum", "nothing"};
  for (const std::string wait : waits)
    for (const bool by_exception : {false, true}) {
      int size = 0;
      MPI_Comm_size(MPI_COMM_WORLD, &size);
      if (size < 2) return;
      CAPTURE(wait, by_exception);
      std::string said;
      const int failing = size - 1;
      try {
        heed::mpi_transport ranks(MPI_COMM_WORLD, mpi::patient());
        // Long enough not to be stored on the way.
        std::vector<unsigned char> unwanted(1 << 20), waited_for(1 << 20);
        request send = ranks.isend(bytes_of(unwanted), (ranks.rank() + 1) % size, 1);
        if (ranks.rank() == failing) {
          if (by_exception) throw std::runtime_error("planned");
          ranks.abort(3);
          said = mpi::said_by([&] { ranks.barrier(); });
        } else {
          request receive = ranks.irecv(bytes_of(waited_for), (ranks.rank() + 1) % size, 2);
          double value = 1;
          if (wait == "a message") ranks.wait(receive);
          if (wait == "a long send") ranks.wait(send);
          if (wait == "a barrier") ranks.barrier();
          if (wait == "a sum") ranks.allreduce_sum(heed::view<double, 1>(&value, {1}));
          // A send may have been taken, to be thrown away.
          for (;;) ranks.poll();
        }
      } catch (const heed::transport_error& error) {
        said = error.what();
        CHECK(error.peer() == failing);
      } catch (const std::runtime_error& error) {
        said = error.what();
      }
      int rank = 0;
      MPI_Comm_rank(MPI_COMM_WORLD, &rank);
      if (rank != failing)
        CHECK_THAT(said, ContainsSubstring("rank " + std::to_string(rank) + ", peer " + std::to_string(failing) +
                                           ": that rank failed"));
      else
        CHECK_THAT(said, ContainsSubstring(by_exception ? "planned" : "this rank failed before"));
    }
  // Others go on.
  heed::mpi_transport ranks(MPI_COMM_WORLD, mpi::patient());
  ranks.barrier();
}

TEST_CASE("mpi: patience ends") {
  heed::mpi_transport ranks(MPI_COMM_WORLD, mpi::patient({.patience = 0.2}));
  if (ranks.size() < 2) return;
  int value = 0;
  if (ranks.rank() == 0) {
    request message = ranks.irecv(mpi::bytes_of(&value, 1), 1, 9);
    CHECK_THAT(mpi::said_by([&] { ranks.wait(message); }),
               ContainsSubstring("rank 0, peer 1: nothing for 0.2 seconds: receive of 4 bytes, tag 9"));
  } else {
    CHECK_THAT(mpi::said_by([&] {
                 for (;;) ranks.poll();
               }),
               ContainsSubstring("peer 0: that rank failed"));
  }
}

TEST_CASE("mpi: bad arguments are refused") {
  using support::check_refusal;
  const auto make = [](MPI_Comm communicator, const heed::mpi_transport_options& options) {
    return [=] { heed::mpi_transport ranks(communicator, options); };
  };
  check_refusal("mpi_transport", {"communicator", "MPI_COMM_NULL"}, make(MPI_COMM_NULL, {}));
  check_refusal("mpi_transport", {"piece_bytes", "1 to 2^30", "0"}, make(MPI_COMM_WORLD, {.piece_bytes = 0}));
  check_refusal("mpi_transport", {"piece_bytes", "2147483648"},
                make(MPI_COMM_WORLD, {.piece_bytes = index_t{1} << 31}));
  check_refusal("mpi_transport", {"patience", "-1"}, make(MPI_COMM_WORLD, {.patience = -1}));

  int rank = 0, size = 0, level = MPI_THREAD_SINGLE;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (size >= 2) {
    MPI_Comm half, between;
    MPI_Comm_split(MPI_COMM_WORLD, rank % 2, rank, &half);
    MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, 1 - rank % 2, 7, &between);
    check_refusal("mpi_transport", {"communicator", "an inter-communicator"}, make(between, {}));
    MPI_Comm_free(&between);
    MPI_Comm_free(&half);
  }
  MPI_Query_thread(&level);
  if (level <= MPI_THREAD_FUNNELED) {
    std::string said;
    std::thread([&] { said = support::message_of(make(MPI_COMM_WORLD, {})); }).join();
    CHECK_THAT(said,
               ContainsSubstring("the thread that initialised MPI, or MPI_THREAD_SERIALIZED, got another thread"));
  }

  heed::mpi_transport ranks(MPI_COMM_WORLD, mpi::patient());
  int value = 0;
  const auto bytes = mpi::bytes_of(&value, 1);
  check_refusal("mpi_transport::isend", {"peer"}, [&] { ranks.isend(bytes, ranks.size(), 0); });
  check_refusal("mpi_transport::irecv", {"peer", "-1"}, [&] { ranks.irecv(bytes, -1, 0); });
  check_refusal("mpi_transport::irecv", {"tag", "32768"}, [&] { ranks.irecv(bytes, 0, 32768); });
}

TEST_CASE("mpi: a communicator's ranks count, not those of the program") {
  int rank = 0, size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Comm half;
  MPI_Comm_split(MPI_COMM_WORLD, rank % 2, -rank, &half);
  {
    heed::mpi_transport ranks(half, mpi::patient());
    CHECK(ranks.size() == (size + 1 - rank % 2) / 2);
    double number = 1;
    ranks.allreduce_sum(heed::view<double, 1>(&number, {1}));
    CHECK(number == ranks.size());
  }
  MPI_Comm_free(&half);
}

// Run alone: the program ends.
TEST_CASE("mpi: a failure ends the program", "[.end_program]") {
  heed::mpi_transport ranks(MPI_COMM_WORLD);
  if (ranks.rank() == 1) {
    try {
      throw std::runtime_error("planned failure");
    } catch (...) {
      ranks.abort(3);
    }
  }
  ranks.barrier();
}

// Run alone: the program ends, though nobody would wake up whom this rank leaves waiting.
TEST_CASE("mpi: an exception that leaves the transport ends the program", "[.leaves]") {
  try {
    heed::mpi_transport ranks(MPI_COMM_WORLD);
    if (ranks.rank() == 1) throw std::runtime_error("planned failure");
    ranks.barrier();
  } catch (const std::runtime_error&) {
    MPI_Barrier(MPI_COMM_WORLD);
  }
}

TEST_CASE("mpi: an exception that leaves no other rank waiting goes on") {
  const auto leave = [] {
    heed::mpi_transport ranks(MPI_COMM_SELF);
    throw std::runtime_error("planned");
  };
  CHECK_THROWS_WITH(leave(), "planned");
  // Nor does one that was on its way before.
  const auto transport_of_destructor = [] {
    struct last_words {
      ~last_words() { heed::mpi_transport(MPI_COMM_WORLD).barrier(); }
    } words;
    throw std::runtime_error("planned");
  };
  CHECK_THROWS_WITH(transport_of_destructor(), "planned");
}

// Run alone, with HEED_TEST_MPI_INIT.
TEST_CASE("mpi: MPI without threads is for files without OpenMP", "[.mpi_init]") {
  int level = MPI_THREAD_MULTIPLE;
  MPI_Query_thread(&level);
  if (level != MPI_THREAD_SINGLE) return;
  const std::string said = support::message_of([] { heed::mpi_transport ranks(MPI_COMM_WORLD); });
#if defined(_OPENMP)
  CHECK_THAT(said, ContainsSubstring("MPI_Init_thread(.., MPI_THREAD_FUNNELED, ..), got MPI_THREAD_SINGLE"));
#else
  CHECK(said == "no exception");
#endif
}
