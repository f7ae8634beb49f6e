/// Ranks of an MPI communicator that hear of each other's failures, and that leave it together.
#pragma once

#include <heed/config.hpp>
#include <heed/core/error.hpp>
#include <heed/core/transport.hpp>
#include <heed/interop/mpi/options.hpp>

// The C++ bindings that MPI removed in 2012 would ask for a library of their own.
#if !defined(OMPI_SKIP_MPICXX)
#define OMPI_SKIP_MPICXX 1
#endif
#if !defined(MPICH_SKIP_MPICXX)
#define MPICH_SKIP_MPICXX 1
#endif
#include <mpi.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <thread>
#include <vector>

HEED_ARCH_BEGIN
namespace detail {

using mpi_clock = std::chrono::steady_clock;

inline bool mpi_is_there() noexcept {
  int initialized = 0, finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  return initialized != 0 && finalized == 0;
}

/// This rank of a communicator, which is duplicated twice: for messages, and for notices of failure, which are empty
/// messages that nobody waits for. What heed::mpi_transport says of failures is done here.
class mpi_ranks {
 public:
  inline mpi_ranks(MPI_Comm communicator, const mpi_transport_options& options);
  mpi_ranks(const mpi_ranks&) = delete;
  mpi_ranks& operator=(const mpi_ranks&) = delete;
  inline ~mpi_ranks();

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  const mpi_transport_options& options() const noexcept { return options_; }
  MPI_Comm messages() const noexcept { return messages_; }

  /// Every message of MPI in messages() is counted where it is sent, and where it is received or thrown away.
  void count_sent(int peer) noexcept { ++sent_[static_cast<std::size_t>(peer)].messages; }
  void count_received(int peer) noexcept { ++received_[static_cast<std::size_t>(peer)].messages; }
  /// What ranks do together is under way in messages(). MPI cannot cancel that: after a failure it stays so.
  void set_collective_pending(bool pending) noexcept { collective_pending_ = pending; }

  inline void fail_if_failed(const char* call) const;
  /// Whether this or another rank failed.
  inline bool hears_failure() noexcept;
  /// This rank cannot go on. Only rethrowing ranks tell others; else the exception ends the program sooner or later.
  [[noreturn]] inline void give_up(const char* call, int peer, const char* what);
  inline void require_success(int code, const char* call, int peer, const char* mpi_call);
  inline void abort(int code) noexcept;

  /// Whether an exception, which nobody was told of so far, is what takes messages away from under their waits.
  bool is_failing() const noexcept { return std::uncaught_exceptions() > exceptions_; }
  inline void tell_failure() noexcept;
  [[noreturn]] inline void end_program(int code, const char* why) noexcept;

  /// Receives a message that nobody wants.
  inline void throw_away(MPI_Message message, MPI_Status status) noexcept;
  void throw_away_messages() noexcept { throw_away_all(messages_); }

  static bool is_over(mpi_clock::time_point since, double limit) noexcept {
    return limit > 0 && std::chrono::duration<double>(mpi_clock::now() - since).count() > limit;
  }

 private:
  /// Messages of MPI between this rank and another.
  struct traffic {
    std::int64_t messages = 0, notices = 0;
  };
  struct notice {
    MPI_Request handle;
  };

  inline void throw_away_all(MPI_Comm communicator) noexcept;
  /// When all ranks are here, and what they sent is received or thrown away: MPI may give the numbers of communicators
  /// that are freed to new ones, which must not find messages of old ones.
  inline bool leave_together() noexcept;

  mpi_transport_options options_;
  MPI_Comm messages_ = MPI_COMM_NULL, failures_ = MPI_COMM_NULL;
  int rank_ = -1, size_ = 0;
  int failed_ = -1;  // a rank that failed
  int exceptions_;   // in flight when this was made
  bool collective_pending_ = false;
  std::unique_ptr<traffic[]> sent_, received_, expected_;  // [size]
  std::vector<notice> notices_;                            // of this rank's failure, one a rank
};

mpi_ranks::mpi_ranks(MPI_Comm communicator, const mpi_transport_options& options)
    : options_(options), exceptions_(std::uncaught_exceptions()) {
  const checker check("mpi_transport");
  check.require(mpi_is_there(), "communicator", "one of an initialised MPI",
                "MPI that is not initialised, or already finalised");
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
  check.require(options_.piece_bytes >= 1 && options_.piece_bytes <= index_t{1} << 30, "piece_bytes", "1 to 2^30",
                options_.piece_bytes);
  check.require(options_.patience >= 0, "patience", "at least 0", options_.patience);

  MPI_Comm_rank(communicator, &rank_);
  for (MPI_Comm* const copy : {&messages_, &failures_}) {
    require_success(MPI_Comm_dup(communicator, copy), "mpi_transport", -1, "MPI_Comm_dup");
    MPI_Comm_set_errhandler(*copy, MPI_ERRORS_RETURN);
    MPI_Comm_set_name(*copy, copy == &messages_ ? "heed: messages" : "heed: failures");
  }
  MPI_Comm_size(messages_, &size_);
  for (auto* const counts : {&sent_, &received_, &expected_})
    *counts = std::make_unique<traffic[]>(static_cast<std::size_t>(size_));
  notices_.resize(static_cast<std::size_t>(size_), {MPI_REQUEST_NULL});
}

mpi_ranks::~mpi_ranks() {
  if (!mpi_is_there()) return;
  if (options_.on_failure == mpi_failure::rethrow) {
    if (is_failing()) tell_failure();
    if (!leave_together()) return;
  } else if (is_failing() && size_ > 1) {
    // What it says is not known before it is caught.
    end_program(1, "an exception left the scope of the transport");
  }
  if (!collective_pending_) MPI_Comm_free(&messages_);
  MPI_Comm_free(&failures_);
}

void mpi_ranks::fail_if_failed(const char* call) const {
  if (failed_ >= 0) [[unlikely]]
    fail_transport("mpi_transport", call, rank_, failed_,
                   failed_ == rank_ ? "this rank failed before" : "that rank failed");
}

bool mpi_ranks::hears_failure() noexcept {
  int there = 0;
  MPI_Status status;
  if (MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, failures_, &there, &status) == MPI_SUCCESS && there != 0 && failed_ < 0)
    failed_ = status.MPI_SOURCE;
  return failed_ >= 0;
}

void mpi_ranks::give_up(const char* call, int peer, const char* what) {
  if (options_.on_failure == mpi_failure::rethrow) tell_failure();
  failed_ = rank_;
  fail_transport("mpi_transport", call, rank_, peer, what);
}

void mpi_ranks::require_success(int code, const char* call, int peer, const char* mpi_call) {
  if (code == MPI_SUCCESS) [[likely]]
    return;
  char said[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, said, &length);
  give_up(call, peer, text("%s: %s", mpi_call, said).c_str());
}

void mpi_ranks::abort(int code) noexcept {
  if (options_.on_failure == mpi_failure::rethrow) return tell_failure();
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

void mpi_ranks::tell_failure() noexcept {
  if (failed_ >= 0) return;
  failed_ = rank_;
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    const auto i = static_cast<std::size_t>(peer);
    if (MPI_Isend(nullptr, 0, MPI_BYTE, peer, 0, failures_, &notices_[i].handle) == MPI_SUCCESS) ++sent_[i].notices;
  }
}

void mpi_ranks::end_program(int code, const char* why) noexcept {
  std::fprintf(stderr, "heed::mpi_transport: rank %d failed and ends the program: %s\n", rank_, why);
  std::fflush(stderr);
  MPI_Abort(messages_, code);
  std::abort();
}

void mpi_ranks::throw_away(MPI_Message message, MPI_Status status) noexcept {
  int count = 0;
  MPI_Get_count(&status, MPI_BYTE, &count);
  const std::unique_ptr<std::byte[]> nowhere(new (std::nothrow) std::byte[static_cast<std::size_t>(count)]);
  if (!nowhere) end_program(1, "no memory for a message that nobody wants");
  MPI_Mrecv(nowhere.get(), count, MPI_BYTE, &message, MPI_STATUS_IGNORE);
}

void mpi_ranks::throw_away_all(MPI_Comm communicator) noexcept {
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

bool mpi_ranks::leave_together() noexcept {
  MPI_Request counted = MPI_REQUEST_NULL;
  if (MPI_Ialltoall(sent_.get(), 2, MPI_INT64_T, expected_.get(), 2, MPI_INT64_T, failures_, &counted) != MPI_SUCCESS)
    return false;
  const auto start = mpi_clock::now();
  for (bool done = false; !is_over(start, options_.patience);) {
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

}  // namespace detail
HEED_ARCH_END
