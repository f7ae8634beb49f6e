/// Runs checked calls of channel attention: positions leave their sums behind, which become weights, and read them.
#pragma once

#include <heed/core/error.hpp>
#include <heed/kernel/channel_rows.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// What backward is given besides the inputs, and what it returns. [B,H,N,C] each.
template <class S>
struct channel_gradients {
  view<const S, 4> dout;
  view<S, 4> dq, dk, dv;
};

/// A call of either pass.
template <class A, class S>
class channel_run {
 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;

  channel_run(const channel_call<S>& call, bool backward) noexcept
      : call_(call), parts_(call.parts()), backward_(backward) {}

  index_t bytes(const executor_ref& where) const noexcept {
    return scratch_total(worker_bytes(), where.concurrency) + call_.heads() * head_bytes();
  }

  void forward(const checker& check, const view<S, 4>& out, scratch_view scratch, const executor_ref& where) {
    const scratch_block memory(check, scratch, bytes(where));
    place(memory, where);
    const auto gather = [&](const channel_block<T>& space, const head_sums& sums, index_t head, index_t part,
                            index_t first, index_t count) {
      add_channel_products<A>(space, call_.rows(call_.q, head, first), call_.rows(call_.k, head, first), count,
                              channels(), sums.scores.from(part * channels()));
    };
    sum_up(where, gather);
    auto finish = [&](index_t head, index_t) {
      const head_sums sums = at(head);
      finish_weights(sums);
      transpose_context<T, A>(sums.scores, channels(), channels(), sums.transposed);
    };
    for_each_task(where, call_.heads(), finish);
    for_channel_blocks<T>(where, call_.heads(), call_.positions(), space_of(),
                          [&](const channel_block<T>& space, index_t head, index_t first, index_t count) {
                            multiply_channels<A>(space, call_.rows(call_.v, head, first), count, at(head).transposed,
                                                 channels(), call_.rows(out, head, first));
                          });
  }

  void backward(const checker& check, const channel_gradients<S>& g, scratch_view scratch, const executor_ref& where) {
    const scratch_block memory(check, scratch, bytes(where));
    place(memory, where);
    const auto gather = [&](const channel_block<T>& space, const head_sums& sums, index_t head, index_t part,
                            index_t first, index_t count) {
      add_channel_products<A>(space, call_.rows(call_.q, head, first), call_.rows(call_.k, head, first), count,
                              channels(), sums.scores.from(part * channels()));
      add_channel_products<A>(space, call_.rows(g.dout, head, first), call_.rows(call_.v, head, first), count,
                              channels(), sums.slopes.from(part * channels()));
    };
    sum_up(where, gather);
    auto finish = [&](index_t head, index_t) {
      const head_sums sums = at(head);
      finish_weights(sums);
      add_channel_parts<T, A>(sums.slopes, parts_.parts, channels());
      differentiate_softmax(sums);
      transpose_context<T, A>(sums.slopes, channels(), channels(), sums.transposed);
    };
    for_each_task(where, call_.heads(), finish);
    for_channel_blocks<T>(where, call_.heads(), call_.positions(), space_of(),
                          [&](const channel_block<T>& space, index_t head, index_t first, index_t count) {
                            const head_sums sums = at(head);
                            const auto multiply = [&](const view<const S, 4>& rows, row_span<const T> matrix,
                                                      const view<S, 4>& to) {
                              multiply_channels<A>(space, call_.rows(rows, head, first), count, matrix, channels(),
                                                   call_.rows(to, head, first));
                            };
                            multiply(call_.k, sums.transposed, g.dq);
                            multiply(call_.q, sums.slopes, g.dk);
                            multiply(g.dout, sums.scores, g.dv);
                          });
  }

 private:
  /// Of one head. The sums of the first part become those of all.
  struct head_sums {
    head_sums(std::byte* base, const channel_run& run) noexcept {
      scratch_cursor memory(base);
      const index_t C = run.channels();
      scores = take_rows<T>(memory, C * run.parts_.parts, C);
      if (run.backward_) slopes = take_rows<T>(memory, C * run.parts_.parts, C);
      transposed = take_rows<T>(memory, C, C);
      inverse = memory.take<T>(round_up(C, P::lanes));
      bytes = memory.used();
    }
    row_span<T> scores;      // [part][a][c], then weights
    row_span<T> slopes;      // [part][a][c]: gradients by weights, then by products, times the scale
    row_span<T> transposed;  // [c][a]: weights, or gradients by products
    T* inverse;              // [a]
    index_t bytes;
  };

  index_t channels() const noexcept { return call_.channels(); }
  index_t worker_bytes() const noexcept {
    scratch_cursor count(nullptr);
    channel_block<T>(count, channels());
    return round_up(count.used(), cache_line);
  }
  index_t head_bytes() const noexcept { return round_up(head_sums(nullptr, *this).bytes, cache_line); }
  void place(const scratch_block& memory, const executor_ref& where) noexcept {
    workers_ = memory.data();
    heads_ = workers_ + worker_bytes() * where.concurrency;
  }
  head_sums at(index_t head) const noexcept { return {heads_ + head * head_bytes(), *this}; }
  auto space_of() const noexcept {
    return [this](index_t worker) {
      scratch_cursor memory(workers_ + worker * worker_bytes());
      return channel_block<T>(memory, channels());
    };
  }

  /// Calls gather(scratch, sums, head, part, first position, positions) for all blocks, those of a part in order.
  template <class Gather>
  void sum_up(const executor_ref& where, const Gather& gather) {
    auto task = [&](index_t number, index_t worker) {
      const channel_block<T> space = space_of()(worker);
      const index_t head = number / parts_.parts, part = number % parts_.parts;
      const head_sums sums = at(head);
      clear_rows<T, A>(sums.scores.from(part * channels()), channels(), channels());
      if (backward_) clear_rows<T, A>(sums.slopes.from(part * channels()), channels(), channels());
      parts_.for_blocks_of(
          part, [&](const block_of_rows& block) { gather(space, sums, head, part, block.first, block.count); });
    };
    for_each_task(where, call_.heads() * parts_.parts, task);
  }

  void finish_weights(const head_sums& sums) const noexcept {
    add_channel_parts<T, A>(sums.scores, parts_.parts, channels());
    weigh_channels<T, A>(sums.scores, channels(), static_cast<T>(call_.scale), sums.inverse);
  }

  /// dz = A (dA - sum_c A dA), times the scale of the products that it is a gradient by.
  void differentiate_softmax(const head_sums& sums) const noexcept {
    for (index_t a = 0; a < channels(); ++a) {
      P mean(T(0));
      for_vectors<T, A>(channels(), [&](index_t c, int some) {
        mean = fma(first_lanes(P::load_aligned(sums.scores[a] + c), some, T(0)),
                   first_lanes(P::load_aligned(sums.slopes[a] + c), some, T(0)), mean);
      });
      const P centre(reduce_add(mean)), scale(static_cast<T>(call_.scale));
      for_vectors<T, A>(channels(), [&](index_t c, int) {
        T* const slope = sums.slopes[a] + c;
        (scale * P::load_aligned(sums.scores[a] + c) * (P::load_aligned(slope) - centre)).store_aligned(slope);
      });
    }
  }

  const channel_call<S>& call_;
  row_parts parts_;
  bool backward_;
  std::byte* workers_ = nullptr;
  std::byte* heads_ = nullptr;
};

}  // namespace detail
HEED_ARCH_END
