/// Ranks of an MPI program as a transport: what operators over several ranks (heed/ring.hpp) talk through on a cluster.
#pragma once

#include <heed/config.hpp>
#include <heed/core/transport.hpp>
#include <heed/core/view.hpp>
#include <heed/interop/mpi/mailbox.hpp>
#include <heed/interop/mpi/options.hpp>
#include <heed/interop/mpi/ranks.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

HEED_ARCH_BEGIN

/// The ranks of an MPI communicator. A transport (heed/core/transport.hpp).
///
///     MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
///     {
///       heed::mpi_transport ranks(MPI_COMM_WORLD);
///       heed::ring_forward(ranks, q, k, v, out, {.layout = heed::zigzag_layout(N, ranks.size())}, heed::causal{});
///     }
///     MPI_Finalize();
///
/// Constructor and destructor are collective over the communicator. It is duplicated, so that messages of heed and of
/// the program never meet; the program's own is left as it is. MPI itself is initialised and finalised by the program,
/// and if that finalises it first, the destructor leaves MPI alone. Requests refer to the transport: it outlives them.
///
/// Threads: MPI_THREAD_FUNNELED or more, and with FUNNELED the transport belongs to the main thread; other threads of
/// an operator only compute. After a mere MPI_Init most libraries grant MPI_THREAD_SINGLE, the promise that the process
/// has one thread: that will do for files compiled without OpenMP, where operators are serial unless an executor of the
/// program's says otherwise. With OpenMP it is refused.
///
/// Waiting calls MPI all the time, and so does poll(), which operators call between tiles: many libraries move long
/// messages only inside of calls.
///
/// Failure: a rank that an operator fails on calls abort(), and so does the destructor where an exception is what ends the
/// scope of the transport, whoever threw it. As mpi_failure::end_program says, which is the default, that is MPI_Abort,
/// after what went wrong is printed. (The destructor cannot know: catch within the scope, and call abort() there, to have
/// it printed.) With mpi_failure::rethrow the others are told, and whatever they wait for throws transport_error; so does,
/// with patience, what waits longer than that. MPI cannot take back what is sent: requests then wait until the peer
/// took the message or, in its destructor, threw it away; if that needs more than patience, MPI_Abort ends the program,
/// since the message would be read from memory that is no longer its own. So leave the transport's scope on every rank
/// before the program talks about the failure.
///
/// Throws heed::invalid_argument: MPI not initialised or already finalised, too low a thread level, the wrong thread, a
/// null or inter-communicator, piece_bytes below 1 or above 2^30, patience negative. transport_error: MPI says so.
class mpi_transport {
 public:
  /// A message; see transport_request.
  class request {
   public:
    request() noexcept = default;

   private:
    friend class mpi_transport;
    explicit request(std::unique_ptr<detail::mpi_message> message) noexcept : message_(std::move(message)) {}

    std::unique_ptr<detail::mpi_message> message_;
  };

  explicit mpi_transport(MPI_Comm communicator, const mpi_transport_options& options = {})
      : ranks_(communicator, options), mailbox_(ranks_) {}
  mpi_transport(const mpi_transport&) = delete;
  mpi_transport& operator=(const mpi_transport&) = delete;

  int rank() const noexcept { return ranks_.rank(); }
  int size() const noexcept { return ranks_.size(); }

  request isend(view<const std::byte, 1> from, int peer, int tag) { return request(mailbox_.send(from, peer, tag)); }
  request irecv(view<std::byte, 1> to, int peer, int tag) { return request(mailbox_.receive(to, peer, tag)); }
  inline void wait(request& message);
  inline void wait_all(view<request, 1> messages);
  inline bool test(request& message);
  void poll() { mailbox_.listen("poll"); }
  void allreduce_sum(view<float, 1> values) { reduce(values, MPI_FLOAT, MPI_SUM, "allreduce_sum"); }
  void allreduce_sum(view<double, 1> values) { reduce(values, MPI_DOUBLE, MPI_SUM, "allreduce_sum"); }
  void allreduce_max(view<std::uint64_t, 1> values) { reduce(values, MPI_UINT64_T, MPI_MAX, "allreduce_max"); }
  inline void barrier();
  void abort(int code) noexcept { ranks_.abort(code); }

 private:
  template <class T>
  void reduce(view<T, 1> values, MPI_Datatype type, MPI_Op operation, const char* call);
  inline void finish_collective(MPI_Request handle, const char* call);

  detail::mpi_ranks ranks_;
  detail::mpi_mailbox mailbox_;
};

void mpi_transport::wait(request& message) {
  if (!message.message_) return;
  detail::mpi_message& m = *message.message_;
  mailbox_.wait_until(
      "wait", m.peer, [&] { return mailbox_.finished(m, "wait"); },
      [&] {
        return detail::text("%s of %lld bytes, tag %d", m.sends ? "send" : "receive", static_cast<long long>(m.bytes),
                            m.tag);
      });
  message = request();
}

void mpi_transport::wait_all(view<request, 1> messages) {
  for (index_t i = 0; i < messages.extent(0); ++i) wait(messages[i]);
}

bool mpi_transport::test(request& message) {
  if (!message.message_) return true;
  if (!mailbox_.finished(*message.message_, "test")) {
    mailbox_.listen("test");
    return false;
  }
  message = request();
  return true;
}

void mpi_transport::finish_collective(MPI_Request handle, const char* call) {
  ranks_.set_collective_pending(true);
  mailbox_.wait_until(
      call, -1,
      [&] {
        int there = 0;
        ranks_.require_success(MPI_Test(&handle, &there, MPI_STATUS_IGNORE), call, -1, "MPI_Test");
        return there != 0;
      },
      [] { return detail::text("not all ranks are in this call"); });
  ranks_.set_collective_pending(false);
}

/// In a copy, which after a failure is left to MPI: that cannot cancel what ranks do together.
template <class T>
void mpi_transport::reduce(view<T, 1> values, MPI_Datatype type, MPI_Op operation, const char* call) {
  constexpr index_t most = index_t{1} << 20;
  ranks_.fail_if_failed(call);
  auto copy = std::make_unique<T[]>(static_cast<std::size_t>(std::min(most, values.extent(0))));
  for (index_t first = 0; first < values.extent(0); first += most) {
    const index_t count = std::min(most, values.extent(0) - first);
    for (index_t i = 0; i < count; ++i) copy[static_cast<std::size_t>(i)] = values[first + i];
    MPI_Request handle = MPI_REQUEST_NULL;
    ranks_.require_success(
        MPI_Iallreduce(MPI_IN_PLACE, copy.get(), static_cast<int>(count), type, operation, ranks_.messages(), &handle),
        call, -1, "MPI_Iallreduce");
    T* const lent = copy.release();
    finish_collective(handle, call);
    copy.reset(lent);
    for (index_t i = 0; i < count; ++i) values[first + i] = copy[static_cast<std::size_t>(i)];
  }
}

void mpi_transport::barrier() {
  ranks_.fail_if_failed("barrier");
  MPI_Request handle = MPI_REQUEST_NULL;
  ranks_.require_success(MPI_Ibarrier(ranks_.messages(), &handle), "barrier", -1, "MPI_Ibarrier");
  finish_collective(handle, "barrier");
}

static_assert(transport<mpi_transport>);

HEED_ARCH_END
