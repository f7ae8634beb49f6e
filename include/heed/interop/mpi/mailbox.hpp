/// Messages of any length between ranks of MPI.
#pragma once

#include <heed/core/transport.hpp>
#include <heed/interop/mpi/ranks.hpp>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

HEED_ARCH_BEGIN
namespace detail {

class mpi_mailbox;

/// A message, which is several of MPI if it is long: whole pieces and a shorter one, that may be empty. So every two
/// messages of different sizes differ in the size of a piece.
struct mpi_message {
  struct piece {
    MPI_Request handle;
  };

  mpi_message(mpi_mailbox& in, std::byte* to, index_t size, int other, int number, bool sending) noexcept
      : box(in), data(to), bytes(size), peer(other), tag(number), sends(sending) {}
  mpi_message(const mpi_message&) = delete;
  mpi_message& operator=(const mpi_message&) = delete;
  inline ~mpi_message();

  mpi_mailbox& box;
  std::byte* data;
  index_t bytes;
  int peer, tag;
  bool sends;
  std::vector<piece> pieces;  // that MPI was asked to move
  index_t posted = 0;         // bytes of them
  bool whole = false;         // no more pieces to come
  index_t other_bytes = -1;   // of a piece that arrived in another size
};

/// What this rank sends and receives.
///
/// Receives are matched by probes, and posted when their size is known to be right: of a message that is too long Open
/// MPI 4 writes all of it, and MPICH 4 ends the program whatever the error handler.
class mpi_mailbox {
 public:
  explicit mpi_mailbox(mpi_ranks& ranks) noexcept : ranks_(ranks) {}

  inline std::unique_ptr<mpi_message> send(view<const std::byte, 1> from, int peer, int tag);
  inline std::unique_ptr<mpi_message> receive(view<std::byte, 1> to, int peer, int tag);
  /// If all of it has been moved: true, or an exception.
  inline bool finished(mpi_message& m, const char* call);
  /// Lets MPI move messages; throws if another rank says that it failed.
  inline void listen(const char* call);
  /// Listens until done(). what(): what is waited for.
  template <class Done, class What>
  void wait_until(const char* call, int peer, const Done& done, const What& what);

 private:
  friend struct mpi_message;

  struct receive_in_turn {
    mpi_message* message;
  };

  inline std::unique_ptr<mpi_message> make(std::byte* data, index_t bytes, int peer, int tag, bool sends,
                                           const char* call);
  /// Posts the receives of what has come.
  inline void match(const char* call);
  /// Whether nothing more will come for this message.
  inline bool match(mpi_message& m, const char* call);
  /// Completes or cancels it.
  inline void close(mpi_message& m) noexcept;

  /// Seconds that a rank which ends the program anyway gives others to take its messages, so that it can say why.
  static constexpr double last_wait = 10;

  mpi_ranks& ranks_;
  std::vector<receive_in_turn> unmatched_;  // in the order of their posts
};

mpi_message::~mpi_message() { box.close(*this); }

std::unique_ptr<mpi_message> mpi_mailbox::make(std::byte* data, index_t bytes, int peer, int tag, bool sends,
                                               const char* call) {
  check_message("mpi_transport", call, view<const std::byte, 1>(data, {bytes}), peer, tag, ranks_.size());
  ranks_.fail_if_failed(call);
  auto message = std::make_unique<mpi_message>(*this, data, bytes, peer, tag, sends);
  message->pieces.reserve(static_cast<std::size_t>(bytes / ranks_.options().piece_bytes + 1));
  return message;
}

std::unique_ptr<mpi_message> mpi_mailbox::send(view<const std::byte, 1> from, int peer, int tag) {
  const index_t most = ranks_.options().piece_bytes;
  // Only read: MPI_Isend takes a pointer to constants.
  auto message = make(const_cast<std::byte*>(from.data()), from.extent(0), peer, tag, true, "isend");
  mpi_message& m = *message;
  while (!m.whole) {
    const index_t count = std::min(most, m.bytes - m.posted);
    MPI_Request handle = MPI_REQUEST_NULL;
    ranks_.require_success(
        MPI_Isend(m.data + m.posted, static_cast<int>(count), MPI_BYTE, peer, tag, ranks_.messages(), &handle), "isend",
        peer, "MPI_Isend");
    ranks_.count_sent(peer);
    m.pieces.push_back({handle});
    m.posted += count;
    m.whole = count < most;
  }
  return message;
}

std::unique_ptr<mpi_message> mpi_mailbox::receive(view<std::byte, 1> to, int peer, int tag) {
  auto message = make(to.data(), to.extent(0), peer, tag, false, "irecv");
  unmatched_.push_back({message.get()});
  return message;
}

bool mpi_mailbox::match(mpi_message& m, const char* call) {
  const index_t most = ranks_.options().piece_bytes;
  while (!m.whole) {
    int there = 0, count = 0;
    MPI_Message message = MPI_MESSAGE_NULL;
    MPI_Status status;
    ranks_.require_success(MPI_Improbe(m.peer, m.tag, ranks_.messages(), &there, &message, &status), call, m.peer,
                           "MPI_Improbe");
    if (there == 0) return false;
    ranks_.count_received(m.peer);
    MPI_Get_count(&status, MPI_BYTE, &count);
    if (count != std::min(most, m.bytes - m.posted)) {
      m.other_bytes = m.posted + count;
      ranks_.throw_away(message, status);
      return true;
    }
    MPI_Request handle = MPI_REQUEST_NULL;
    ranks_.require_success(MPI_Imrecv(m.data + m.posted, count, MPI_BYTE, &message, &handle), call, m.peer,
                           "MPI_Imrecv");
    m.pieces.push_back({handle});
    m.posted += count;
    m.whole = count < most;
  }
  return true;
}

void mpi_mailbox::match(const char* call) {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < unmatched_.size(); ++i) {
    mpi_message& m = *unmatched_[i].message;
    bool first = true;
    for (std::size_t earlier = 0; earlier < kept; ++earlier) {
      const mpi_message& other = *unmatched_[earlier].message;
      first = first && (other.peer != m.peer || other.tag != m.tag);
    }
    if (!first || !match(m, call)) unmatched_[kept++] = unmatched_[i];
  }
  unmatched_.resize(kept);
}

bool mpi_mailbox::finished(mpi_message& m, const char* call) {
  if (!m.sends) match(call);
  if (m.other_bytes >= 0)
    ranks_.give_up(call, m.peer,
                   text("a message of %lld bytes for a buffer of %lld, tag %d", static_cast<long long>(m.other_bytes),
                        static_cast<long long>(m.bytes), m.tag)
                       .c_str());
  for (auto& piece : m.pieces) {
    int there = 0;
    ranks_.require_success(MPI_Test(&piece.handle, &there, MPI_STATUS_IGNORE), call, m.peer, "MPI_Test");
    if (there == 0) return false;
  }
  return m.whole;
}

void mpi_mailbox::listen(const char* call) {
  ranks_.hears_failure();
  ranks_.fail_if_failed(call);
  match(call);
}

template <class Done, class What>
void mpi_mailbox::wait_until(const char* call, int peer, const Done& done, const What& what) {
  const double patience = ranks_.options().patience;
  const auto start = mpi_clock::now();
  while (!done()) {
    listen(call);
    if (mpi_ranks::is_over(start, patience))
      ranks_.give_up(call, peer, text("nothing for %g seconds: %s", patience, what().c_str()).c_str());
    // Ranks may outnumber processors.
    std::this_thread::yield();
  }
}

void mpi_mailbox::close(mpi_message& m) noexcept {
  if (!mpi_is_there()) return;
  for (std::size_t i = 0; i < unmatched_.size(); ++i)
    if (unmatched_[i].message == &m) unmatched_.erase(unmatched_.begin() + static_cast<std::ptrdiff_t>(i--));
  const mpi_transport_options& options = ranks_.options();
  const bool failing = ranks_.is_failing();
  const bool ends = options.on_failure == mpi_failure::end_program;
  const double limit = options.patience == 0 && failing && ends ? last_wait : options.patience;
  const auto start = mpi_clock::now();
  for (auto& piece : m.pieces) {
    int there = 0;
    while (MPI_Test(&piece.handle, &there, MPI_STATUS_IGNORE) == MPI_SUCCESS && there == 0) {
      if (failing && !ends) ranks_.tell_failure();
      if (ranks_.hears_failure()) ranks_.throw_away_messages();
      if (mpi_ranks::is_over(start, limit)) ranks_.end_program(1, "a message cannot be taken back");
      std::this_thread::yield();
    }
  }
}

}  // namespace detail
HEED_ARCH_END
