/// Ranks of an MPI program as a transport: what operators over several ranks (heed/ring.hpp) talk through on a cluster.
#pragma once

#include <heed/config.hpp>
#include <heed/core/error.hpp>
#include <heed/core/transport.hpp>
#include <heed/core/view.hpp>

// The C++ bindings that MPI removed in 2012 would ask for a library of their own.
#if !defined(OMPI_SKIP_MPICXX)
#define OMPI_SKIP_MPICXX 1
#endif
#if !defined(MPICH_SKIP_MPICXX)
#define MPICH_SKIP_MPICXX 1
#endif
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <thread>
#include <utility>
#include <vector>

HEED_BEGIN

/// What becomes of an MPI program of which one rank failed.
enum class mpi_failure {
  end_program,  // MPI_Abort, after what went wrong is printed
  rethrow       // the rank that failed goes on with its exception, all others get a transport_error
};

struct mpi_transport_options {
  mpi_failure on_failure = mpi_failure::end_program;
  double patience = 0;                     // seconds that a call waits for another rank before it throws; 0: forever
  index_t piece_bytes = index_t{1} << 30;  // longer messages travel in pieces, since MPI counts in int
};

HEED_END

HEED_ARCH_BEGIN

class mpi_transport;

namespace detail {

/// A message, which is several of MPI if it is long: whole pieces and a shorter one, that may be empty. So every two
/// messages of different sizes differ in the size of a piece.
struct mpi_message {
  struct piece {
    MPI_Request handle;
  };

  mpi_transport* ranks;
  std::byte* data;
  index_t bytes;
  int peer, tag;
  bool sends;
  std::vector<piece> pieces;  // that MPI was asked to move
  index_t posted = 0;         // bytes of them
  bool whole = false;         // no more pieces to come
  index_t other_bytes = -1;   // of a piece that arrived in another size
};

}  // namespace detail

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
/// Failure: a rank that an operator fails on calls abort(). As mpi_failure::end_program says, which is the default, that
/// is MPI_Abort. With mpi_failure::rethrow the others are told, and whatever they wait for throws transport_error; so
/// does, with patience, what waits longer than that. MPI cannot take back what is sent: requests then wait until the peer
/// took the message or, in its destructor, threw it away; if that needs more than patience, MPI_Abort ends the program,
/// since the message would be read from memory that is no longer its own. So leave the transport's scope on every rank
/// before the program talks about the failure.
///
/// Receives are matched by probes, and posted when their size is known to be right: of a message that is too long Open
/// MPI 4 writes all of it, and MPICH 4 ends the program whatever the error handler.
///
/// Throws heed::invalid_argument: MPI not initialised or already finalised, too low a thread level, the wrong thread, a
/// null or inter-communicator, piece_bytes below 1 or above 2^30, patience negative. transport_error: MPI says so.
class mpi_transport {
 public:
  class request {
   public:
    request() noexcept = default;
    request(request&& other) noexcept = default;
    request& operator=(request&& other) noexcept {
      if (this != &other) {
        close();
        message_ = std::move(other.message_);
      }
      return *this;
    }
    ~request() { close(); }

   private:
    friend class mpi_transport;
    explicit request(std::unique_ptr<detail::mpi_message> message) noexcept : message_(std::move(message)) {}
    inline void close() noexcept;

    std::unique_ptr<detail::mpi_message> message_;
  };

  inline explicit mpi_transport(MPI_Comm communicator, const mpi_transport_options& options = {});
  mpi_transport(const mpi_transport&) = delete;
  mpi_transport& operator=(const mpi_transport&) = delete;
  inline ~mpi_transport();

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }

  inline request isend(view<const std::byte, 1> from, int peer, int tag);
  inline request irecv(view<std::byte, 1> to, int peer, int tag);
  inline void wait(request& message);
  inline void wait_all(view<request, 1> messages);
  inline bool test(request& message);
  inline void poll() { listen("poll"); }
  void allreduce_sum(view<float, 1> values) { reduce(values, MPI_FLOAT, MPI_SUM, "allreduce_sum"); }
  void allreduce_sum(view<double, 1> values) { reduce(values, MPI_DOUBLE, MPI_SUM, "allreduce_sum"); }
  void allreduce_max(view<std::uint64_t, 1> values) { reduce(values, MPI_UINT64_T, MPI_MAX, "allreduce_max"); }
  inline void barrier();
  inline void abort(int code) noexcept;

 private:
  using clock = std::chrono::steady_clock;
  /// Seconds that a rank which ends the program anyway gives others to take its messages, so that it can say why.
  static constexpr double last_wait = 10;

  struct receive {
    detail::mpi_message* message;
  };
  /// Messages of MPI between this rank and another.
  struct traffic {
    std::int64_t messages = 0, notices = 0;
  };

  static bool mpi_is_there() noexcept {
    int initialized = 0, finalized = 0;
    MPI_Initialized(&initialized);
    MPI_Finalized(&finalized);
    return initialized != 0 && finalized == 0;
  }

  inline request make(std::byte* data, index_t bytes, int peer, int tag, bool sends, const char* call);
  /// Posts the receives of what has come.
  inline void match(const char* call);
  inline bool match(detail::mpi_message& m, const char* call);
  /// If all pieces have arrived: true, or an exception.
  inline bool finished(detail::mpi_message& m, const char* call);
  template <class Done, class What>
  void wait_until(const char* call, int peer, const Done& done, const What& what);
  template <class T>
  void reduce(view<T, 1> values, MPI_Datatype type, MPI_Op operation, const char* call);
  inline void finish_collective(MPI_Request handle, const char* call);

  inline void fail_if_failed(const char* call) const;
  /// Lets MPI move messages; throws if another rank says that it failed.
  inline void listen(const char* call);
  inline bool hears_failure() noexcept;
  [[noreturn]] inline void give_up(const char* call, int peer, const char* what);
  inline void require_success(int code, const char* call, int peer, const char* mpi_call);
  inline void tell_failure() noexcept;

  inline void close(detail::mpi_message& m) noexcept;
  static bool is_over(clock::time_point since, double limit) noexcept {
    return limit > 0 && std::chrono::duration<double>(clock::now() - since).count() > limit;
  }
  [[noreturn]] inline void end_program(int code, const char* why) noexcept;
  inline void throw_away(MPI_Message message, MPI_Status status) noexcept;
  inline void throw_away_all(MPI_Comm communicator) noexcept;
  /// When all ranks are here, and what they sent is received or thrown away: MPI may give the numbers of communicators
  /// that are freed to new ones, which must not find messages of old ones.
  inline bool leave_together() noexcept;

  MPI_Comm messages_ = MPI_COMM_NULL, failures_ = MPI_COMM_NULL;
  int rank_ = -1, size_ = 0;
  int failed_ = -1;  // a rank that failed
  mpi_failure on_failure_;
  double patience_;
  index_t piece_bytes_;
  int exceptions_;                                         // in flight when this was made
  bool collective_pending_ = false;                        // for ever, after a failure
  std::unique_ptr<traffic[]> sent_, received_, expected_;  // [size]
  std::vector<receive> unmatched_;                         // in the order of their posts
  std::vector<detail::mpi_message::piece> notices_;        // of this rank's failure, one a rank
};

mpi_transport::mpi_transport(MPI_Comm communicator, const mpi_transport_options& options)
    : on_failure_(options.on_failure),
      patience_(options.patience),
      piece_bytes_(options.piece_bytes),
      exceptions_(std::uncaught_exceptions()) {
  const detail::checker check("mpi_transport");
  check.require(mpi_is_there(), "communicator", "one of an initialised MPI", "MPI that was not, or is finalised");
  int level = MPI_THREAD_SINGLE, main_thread = 1, inter = 0;
  MPI_Query_thread(&level);
#if defined(_OPENMP)
  check.require(level != MPI_THREAD_SINGLE, "communicator",
                "MPI with threads, as of MPI_Init_thread(.., MPI_THREAD_FUNNELED, ..)", "MPI_THREAD_SINGLE");
#endif
  MPI_Is_thread_main(&main_thread);
  check.require(main_thread != 0 || level > MPI_THREAD_FUNNELED, "communicator",
                "the thread that initialised MPI, or MPI_THREAD_SERIALIZED", "another thread");
  check.require(communicator != MPI_COMM_NULL, "communicator", "a communicator", "MPI_COMM_NULL");
  MPI_Comm_test_inter(communicator, &inter);
  check.require(inter == 0, "communicator", "one of a single group", "an inter-communicator");
  check.require(piece_bytes_ >= 1 && piece_bytes_ <= index_t{1} << 30, "piece_bytes", "1 to 2^30", piece_bytes_);
  check.require(patience_ >= 0, "patience", "at least 0", patience_);

  MPI_Comm_rank(communicator, &rank_);
  for (MPI_Comm* const copy : {&messages_, &failures_}) {
    require_success(MPI_Comm_dup(communicator, copy), "mpi_transport", -1, "MPI_Comm_dup");
    MPI_Comm_set_errhandler(*copy, MPI_ERRORS_RETURN);
  }
  MPI_Comm_size(messages_, &size_);
  for (auto* const counts : {&sent_, &received_, &expected_})
    *counts = std::make_unique<traffic[]>(static_cast<std::size_t>(size_));
  notices_.resize(static_cast<std::size_t>(size_), {MPI_REQUEST_NULL});
}

mpi_transport::~mpi_transport() {
  if (!mpi_is_there()) return;
  if (on_failure_ == mpi_failure::rethrow) {
    if (std::uncaught_exceptions() > exceptions_) abort(1);
    if (!leave_together()) return;
  }
  if (!collective_pending_) MPI_Comm_free(&messages_);
  MPI_Comm_free(&failures_);
}

mpi_transport::request mpi_transport::make(std::byte* data, index_t bytes, int peer, int tag, bool sends,
                                           const char* call) {
  detail::check_message("mpi_transport", call, view<const std::byte, 1>(data, {bytes}), peer, tag, size_);
  fail_if_failed(call);
  request message(std::make_unique<detail::mpi_message>(detail::mpi_message{this, data, bytes, peer, tag, sends, {}}));
  message.message_->pieces.reserve(static_cast<std::size_t>(bytes / piece_bytes_ + 1));
  return message;
}

mpi_transport::request mpi_transport::isend(view<const std::byte, 1> from, int peer, int tag) {
  // Only read: MPI_Isend takes a pointer to constants.
  request message = make(const_cast<std::byte*>(from.data()), from.extent(0), peer, tag, true, "isend");
  detail::mpi_message& m = *message.message_;
  while (!m.whole) {
    const index_t count = std::min(piece_bytes_, m.bytes - m.posted);
    MPI_Request handle = MPI_REQUEST_NULL;
    require_success(MPI_Isend(m.data + m.posted, static_cast<int>(count), MPI_BYTE, peer, tag, messages_, &handle),
                    "isend", peer, "MPI_Isend");
    ++sent_[static_cast<std::size_t>(peer)].messages;
    m.pieces.push_back({handle});
    m.posted += count;
    m.whole = count < piece_bytes_;
  }
  return message;
}

mpi_transport::request mpi_transport::irecv(view<std::byte, 1> to, int peer, int tag) {
  request message = make(to.data(), to.extent(0), peer, tag, false, "irecv");
  unmatched_.push_back({message.message_.get()});
  return message;
}

/// Whether nothing more will come for this message.
bool mpi_transport::match(detail::mpi_message& m, const char* call) {
  while (!m.whole) {
    int there = 0, count = 0;
    MPI_Message message = MPI_MESSAGE_NULL;
    MPI_Status status;
    require_success(MPI_Improbe(m.peer, m.tag, messages_, &there, &message, &status), call, m.peer, "MPI_Improbe");
    if (there == 0) return false;
    ++received_[static_cast<std::size_t>(m.peer)].messages;
    MPI_Get_count(&status, MPI_BYTE, &count);
    if (count != std::min(piece_bytes_, m.bytes - m.posted)) {
      m.other_bytes = m.posted + count;
      throw_away(message, status);
      return true;
    }
    MPI_Request handle = MPI_REQUEST_NULL;
    require_success(MPI_Imrecv(m.data + m.posted, count, MPI_BYTE, &message, &handle), call, m.peer, "MPI_Imrecv");
    m.pieces.push_back({handle});
    m.posted += count;
    m.whole = count < piece_bytes_;
  }
  return true;
}

void mpi_transport::match(const char* call) {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < unmatched_.size(); ++i) {
    detail::mpi_message& m = *unmatched_[i].message;
    bool first = true;
    for (std::size_t earlier = 0; earlier < kept; ++earlier) {
      const detail::mpi_message& other = *unmatched_[earlier].message;
      first = first && (other.peer != m.peer || other.tag != m.tag);
    }
    if (!first || !match(m, call)) unmatched_[kept++] = unmatched_[i];
  }
  unmatched_.resize(kept);
}

bool mpi_transport::finished(detail::mpi_message& m, const char* call) {
  if (!m.sends) match(call);
  if (m.other_bytes >= 0)
    give_up(call, m.peer,
            detail::text("a message of %lld bytes for a buffer of %lld, tag %d", static_cast<long long>(m.other_bytes),
                         static_cast<long long>(m.bytes), m.tag)
                .c_str());
  for (auto& piece : m.pieces) {
    int there = 0;
    require_success(MPI_Test(&piece.handle, &there, MPI_STATUS_IGNORE), call, m.peer, "MPI_Test");
    if (there == 0) return false;
  }
  return m.whole;
}

template <class Done, class What>
void mpi_transport::wait_until(const char* call, int peer, const Done& done, const What& what) {
  const auto start = clock::now();
  while (!done()) {
    listen(call);
    if (is_over(start, patience_))
      give_up(call, peer, detail::text("nothing for %g seconds: %s", patience_, what().c_str()).c_str());
    // Ranks may outnumber processors.
    std::this_thread::yield();
  }
}

void mpi_transport::wait(request& message) {
  if (!message.message_) return;
  detail::mpi_message& m = *message.message_;
  wait_until(
      "wait", m.peer, [&] { return finished(m, "wait"); },
      [&] {
        return detail::text("%s of %lld bytes, tag %d", m.sends ? "send" : "receive", static_cast<long long>(m.bytes),
                            m.tag);
      });
  message.message_.reset();
}

void mpi_transport::wait_all(view<request, 1> messages) {
  for (index_t i = 0; i < messages.extent(0); ++i) wait(messages[i]);
}

bool mpi_transport::test(request& message) {
  if (!message.message_) return true;
  if (!finished(*message.message_, "test")) {
    listen("test");
    return false;
  }
  message.message_.reset();
  return true;
}

void mpi_transport::finish_collective(MPI_Request handle, const char* call) {
  collective_pending_ = true;
  wait_until(
      call, -1,
      [&] {
        int there = 0;
        require_success(MPI_Test(&handle, &there, MPI_STATUS_IGNORE), call, -1, "MPI_Test");
        return there != 0;
      },
      [] { return detail::text("not all ranks are in this call"); });
  collective_pending_ = false;
}

/// In a copy, which after a failure is left to MPI: that cannot cancel what ranks do together.
template <class T>
void mpi_transport::reduce(view<T, 1> values, MPI_Datatype type, MPI_Op operation, const char* call) {
  constexpr index_t most = index_t{1} << 20;
  fail_if_failed(call);
  auto copy = std::make_unique<T[]>(static_cast<std::size_t>(std::min(most, values.extent(0))));
  for (index_t first = 0; first < values.extent(0); first += most) {
    const index_t count = std::min(most, values.extent(0) - first);
    for (index_t i = 0; i < count; ++i) copy[static_cast<std::size_t>(i)] = values[first + i];
    MPI_Request handle = MPI_REQUEST_NULL;
    require_success(
        MPI_Iallreduce(MPI_IN_PLACE, copy.get(), static_cast<int>(count), type, operation, messages_, &handle), call,
        -1, "MPI_Iallreduce");
    T* const lent = copy.release();
    finish_collective(handle, call);
    copy.reset(lent);
    for (index_t i = 0; i < count; ++i) values[first + i] = copy[static_cast<std::size_t>(i)];
  }
}

void mpi_transport::barrier() {
  fail_if_failed("barrier");
  MPI_Request handle = MPI_REQUEST_NULL;
  require_success(MPI_Ibarrier(messages_, &handle), "barrier", -1, "MPI_Ibarrier");
  finish_collective(handle, "barrier");
}

void mpi_transport::abort(int code) noexcept {
  if (on_failure_ == mpi_failure::rethrow) return tell_failure();
#if HEED_EXCEPTIONS
  if (const std::exception_ptr failure = std::current_exception()) {
    try {
      std::rethrow_exception(failure);
    } catch (const std::exception& error) {
      end_program(code, error.what());
    } catch (...) {
    }
  }
#endif
  end_program(code, "an operator did not finish");
}

void mpi_transport::end_program(int code, const char* why) noexcept {
  std::fprintf(stderr, "heed::mpi_transport: rank %d failed and ends the program: %s\n", rank_, why);
  std::fflush(stderr);
  MPI_Abort(messages_, code);
  std::abort();
}

void mpi_transport::fail_if_failed(const char* call) const {
  if (failed_ >= 0) [[unlikely]]
    detail::fail_transport("mpi_transport", call, rank_, failed_,
                           failed_ == rank_ ? "this rank failed before" : "that rank failed");
}

void mpi_transport::listen(const char* call) {
  hears_failure();
  fail_if_failed(call);
  match(call);
}

bool mpi_transport::hears_failure() noexcept {
  int there = 0;
  MPI_Status status;
  if (MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, failures_, &there, &status) == MPI_SUCCESS && there != 0 && failed_ < 0)
    failed_ = status.MPI_SOURCE;
  return failed_ >= 0;
}

void mpi_transport::give_up(const char* call, int peer, const char* what) {
  if (on_failure_ == mpi_failure::rethrow) tell_failure();
  failed_ = rank_;
  detail::fail_transport("mpi_transport", call, rank_, peer, what);
}

void mpi_transport::require_success(int code, const char* call, int peer, const char* mpi_call) {
  if (code == MPI_SUCCESS) [[likely]]
    return;
  char said[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, said, &length);
  give_up(call, peer, detail::text("%s: %s", mpi_call, said).c_str());
}

void mpi_transport::tell_failure() noexcept {
  if (failed_ >= 0) return;
  failed_ = rank_;
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    const auto i = static_cast<std::size_t>(peer);
    if (MPI_Isend(nullptr, 0, MPI_BYTE, peer, 0, failures_, &notices_[i].handle) == MPI_SUCCESS) ++sent_[i].notices;
  }
}

void mpi_transport::request::close() noexcept {
  if (message_) message_->ranks->close(*message_);
  message_.reset();
}

void mpi_transport::close(detail::mpi_message& m) noexcept {
  if (!mpi_is_there()) return;
  for (std::size_t i = 0; i < unmatched_.size(); ++i)
    if (unmatched_[i].message == &m) unmatched_.erase(unmatched_.begin() + static_cast<std::ptrdiff_t>(i--));
  // An exception leaves messages behind: this rank failed, and nobody was told so far.
  const bool failing = std::uncaught_exceptions() > exceptions_;
  const double limit = patience_ == 0 && failing && on_failure_ == mpi_failure::end_program ? last_wait : patience_;
  const auto start = clock::now();
  for (auto& piece : m.pieces) {
    int there = 0;
    while (MPI_Test(&piece.handle, &there, MPI_STATUS_IGNORE) == MPI_SUCCESS && there == 0) {
      if (failing && on_failure_ == mpi_failure::rethrow) tell_failure();
      if (hears_failure()) throw_away_all(messages_);
      if (is_over(start, limit)) end_program(1, "a message cannot be taken back");
      std::this_thread::yield();
    }
  }
}

void mpi_transport::throw_away(MPI_Message message, MPI_Status status) noexcept {
  int count = 0;
  MPI_Get_count(&status, MPI_BYTE, &count);
  const std::unique_ptr<std::byte[]> nowhere(new (std::nothrow) std::byte[static_cast<std::size_t>(count)]);
  if (!nowhere) end_program(1, "no memory for a message that nobody wants");
  MPI_Mrecv(nowhere.get(), count, MPI_BYTE, &message, MPI_STATUS_IGNORE);
}

void mpi_transport::throw_away_all(MPI_Comm communicator) noexcept {
  int there = 0;
  MPI_Message message = MPI_MESSAGE_NULL;
  MPI_Status status;
  while (MPI_Improbe(MPI_ANY_SOURCE, MPI_ANY_TAG, communicator, &there, &message, &status) == MPI_SUCCESS &&
         there != 0) {
    traffic& from = received_[static_cast<std::size_t>(status.MPI_SOURCE)];
    ++(communicator == failures_ ? from.notices : from.messages);
    throw_away(message, status);
  }
}

bool mpi_transport::leave_together() noexcept {
  MPI_Request counted = MPI_REQUEST_NULL;
  if (MPI_Ialltoall(sent_.get(), 2, MPI_INT64_T, expected_.get(), 2, MPI_INT64_T, failures_, &counted) != MPI_SUCCESS)
    return false;
  const auto start = clock::now();
  for (bool done = false; !is_over(start, patience_);) {
    throw_away_all(messages_);
    throw_away_all(failures_);
    int there = 0;
    if (MPI_Test(&counted, &there, MPI_STATUS_IGNORE) != MPI_SUCCESS) break;
    done = there != 0;
    for (std::size_t i = 0; done && i < notices_.size(); ++i) {
      MPI_Test(&notices_[i].handle, &there, MPI_STATUS_IGNORE);
      done =
          there != 0 && received_[i].messages == expected_[i].messages && received_[i].notices == expected_[i].notices;
    }
    if (done) return true;
    std::this_thread::yield();
  }
  // MPI may still use them.
  static_cast<void>(sent_.release());
  static_cast<void>(expected_.release());
  return false;
}

static_assert(transport<mpi_transport>);

HEED_ARCH_END
