/// How ranks talk to each other: the one thing that operators over several ranks know of the machine between them.
#pragma once

#include <heed/config.hpp>
#include <heed/core/error.hpp>
#include <heed/core/view.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

HEED_BEGIN

/// Thrown where ranks cannot go on together: a message of another size than its receive, a rank that failed, a wait
/// that took too long. what() names the call, the rank that noticed it and its peer. The transport is of no use
/// afterwards; outputs of the operator that it came through are unspecified, inputs are as they were.
class transport_error : public std::runtime_error {
 public:
  HEED_INLINE transport_error(const char* message, int rank, int peer)
      : std::runtime_error(message), rank_(rank), peer_(peer) {}

  /// The rank that threw this.
  HEED_INLINE int rank() const noexcept { return rank_; }
  /// The rank that it was talking to or that failed; -1 if there is no one rank to name.
  HEED_INLINE int peer() const noexcept { return peer_; }

 private:
  int rank_, peer_;
};

/// Thrown where this rank's arguments would do, but those of another rank do not: that one throws what says why. The
/// transport is as good as before.
class refused_elsewhere : public invalid_argument {
 public:
  HEED_INLINE refused_elsewhere(const char* message, int rank) : invalid_argument(message), rank_(rank) {}

  /// A rank whose arguments were refused.
  HEED_INLINE int rank() const noexcept { return rank_; }

 private:
  int rank_;
};

HEED_END

HEED_ARCH_BEGIN

/// A message on its way. Move-only; a default-constructed or moved-from request is done.
///
/// The destructor of one that is not done, and a move onto it, complete or cancel the message before they return, so
/// that no buffer is written to or read from after. They do not throw.
template <class R>
concept transport_request = std::default_initializable<R> && std::movable<R> && !std::copy_constructible<R> &&
                            std::is_nothrow_move_constructible_v<R> && std::is_nothrow_move_assignable_v<R>;

/// Ranks 0 .. size() - 1 that exchange bytes. Ring attention is written over this and nothing else; heed has ranks that
/// are threads of one process (core/in_process.hpp), interop/ has those of libraries.
///
///     int rank() const, size() const        this rank, and how many there are; constant
///     request isend(from, peer, tag)        sends the bytes of `from`, returns at once
///     request irecv(to, peer, tag)          fills `to` with the next message of that peer and tag, returns at once
///     void wait(request&)                   returns when the message is done, and makes the request a done one
///     void wait_all(view<request, 1>)       the same for several
///     bool test(request&)                   whether the message is done, which makes the request a done one
///     void poll()                           gives the transport time to move messages; called often while ranks compute
///     void allreduce_sum(values)            [n] of float or double: every value becomes its sum over all ranks
///     void allreduce_max(values)            [n] of std::uint64_t: every value becomes its maximum over all ranks
///     void barrier()                        returns when all ranks have called it
///     void abort(code) noexcept             this rank failed: no other rank may wait for it forever
///
/// What operators rely on:
/// - Buffers are contiguous views, of 0 bytes too. They belong to the transport from the post until the request is done.
/// - peer: 0 .. size() - 1, tag: 0 .. 32767, which every MPI has. Messages of equal (source, destination, tag) arrive in
///   the order of their posts; those of different tags or sources have no order.
/// - The size of a message is that of the buffer that receives it; another size is a transport_error at the receiver.
/// - Sends and receives may be posted in any order: nobody waits in isend or irecv, whether the other side has posted
///   or not.
/// - allreduce and barrier are entered by all ranks in one order, and give every rank the same bits.
/// - All calls of one rank come from one thread at a time: the thread that called the operator.
/// - After abort() of one rank, calls of all ranks throw transport_error instead of waiting. Every call but rank(),
///   size() and abort() may throw it. A wait may have a limit of time, and throw when it is over.
template <class T>
concept transport = transport_request<typename T::request> &&
                    requires(T& t, const T& constant, view<const std::byte, 1> from, view<std::byte, 1> to,
                             typename T::request& request, view<typename T::request, 1> requests, view<float, 1> floats,
                             view<double, 1> doubles, view<std::uint64_t, 1> numbers, int n) {
                      { constant.rank() } -> std::same_as<int>;
                      { constant.size() } -> std::same_as<int>;
                      { t.isend(from, n, n) } -> std::same_as<typename T::request>;
                      { t.irecv(to, n, n) } -> std::same_as<typename T::request>;
                      t.wait(request);
                      t.wait_all(requests);
                      { t.test(request) } -> std::same_as<bool>;
                      t.poll();
                      t.allreduce_sum(floats);
                      t.allreduce_sum(doubles);
                      t.allreduce_max(numbers);
                      t.barrier();
                      { t.abort(n) } noexcept;
                    };

namespace detail {

inline constexpr int largest_tag = 32767;

/// "heed::<transport>::<call>: rank <rank>, peer <peer>: <what happened>".
[[noreturn]] HEED_NOINLINE inline void fail_transport(const char* transport, const char* call, int rank, int peer,
                                                      const char* what) {
  const text message = peer >= 0 ? text("heed::%s::%s: rank %d, peer %d: %s", transport, call, rank, peer, what)
                                 : text("heed::%s::%s: rank %d: %s", transport, call, rank, what);
#if HEED_EXCEPTIONS
  throw transport_error(message.c_str(), rank, peer);
#else
  std::fprintf(stderr, "%s\n", message.c_str());
  std::abort();
#endif
}

/// Checks of isend and irecv that every transport makes.
template <class Byte>
void check_message(const char* transport, const char* call, const view<Byte, 1>& bytes, int peer, int tag, int size) {
  const text op("%s::%s", transport, call);
  const checker check(op.c_str());
  check.tensor(bytes, "bytes");
  check.require(peer >= 0 && peer < size, "peer", text("a rank below %d", size).c_str(), peer);
  check.require(tag >= 0 && tag <= largest_tag, "tag", "0 to 32767", tag);
}

}  // namespace detail
HEED_ARCH_END
