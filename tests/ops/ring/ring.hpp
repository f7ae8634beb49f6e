/// Attention problems that several ranks solve together.
#pragma once

#include "ops/softmax/backward.hpp"
#include "support/hostile_transport.hpp"

#include <heed/ops/ring/backward.hpp>
#include <heed/ops/ring/forward.hpp>
#include <heed/ops/ring/layout.hpp>

#include <array>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

namespace ring_test {

using heed::index_t;
using heed::token_layout;
using softmax_test::backward_problem;
using softmax_test::softmax_backward_options;
using softmax_test::tensor;
using softmax_test::view;

/// How tokens are dealt out.
enum class deal { contiguous, striped, zigzag, listed, cut };
inline constexpr deal all_deals[] = {deal::contiguous, deal::striped, deal::zigzag, deal::listed, deal::cut};

/// A layout and the numbers that it views.
struct owned_layout {
  std::vector<int> starts, tokens;
  token_layout layout;
};

inline owned_layout deal_out(deal how, index_t tokens, int ranks) {
  owned_layout dealt;
  if (how == deal::contiguous) dealt.layout = heed::contiguous_layout(tokens, ranks);
  if (how == deal::striped) dealt.layout = heed::striped_layout(tokens, ranks);
  if (how == deal::zigzag) dealt.layout = heed::zigzag_layout(tokens, ranks);
  if (how == deal::cut) {
    // Half of what is left for each rank, none for the second.
    dealt.starts = {0};
    for (int r = 0, at = 0; r < ranks; ++r) {
      at += r + 1 == ranks ? static_cast<int>(tokens) - at : r == 1 ? 0 : (static_cast<int>(tokens) - at + 1) / 2;
      dealt.starts.push_back(at);
    }
    dealt.layout = heed::contiguous_layout(dealt.starts);
  }
  if (how == deal::listed) {
    // Pieces of 3 tokens, as packed documents might be, the last rank first.
    dealt.starts = {0};
    for (int r = 0; r < ranks; ++r) {
      for (int t = 0; t < tokens; ++t)
        if (ranks - 1 - t / 3 % ranks == r) dealt.tokens.push_back(t);
      dealt.starts.push_back(static_cast<int>(dealt.tokens.size()));
    }
    dealt.layout = heed::listed_layout(dealt.starts, dealt.tokens);
  }
  return dealt;
}

/// The options of a rank, as both calls have them.
template <class S>
heed::ring_backward_options<S> rank_options(const softmax_backward_options<S>& o) {
  heed::ring_backward_options<S> r;
  r.scale = o.scale;
  r.softcap = o.softcap;
  r.sink = o.sink;
  r.window_left = o.window_left;
  r.window_right = o.window_right;
  r.q_offset = o.q_offset;
  r.kv_offset = o.kv_offset;
  r.executor = o.executor.run != nullptr ? o.executor : heed::serial();
  return r;
}

template <class S>
heed::ring_options<S> forward_options(const heed::ring_backward_options<S>& o) {
  heed::ring_options<S> f;
  f.layout = o.layout;
  f.kv_layout = o.kv_layout;
  f.scale = o.scale;
  f.softcap = o.softcap;
  f.bias = o.bias;
  f.sink = o.sink;
  f.window_left = o.window_left;
  f.window_right = o.window_right;
  f.q_offset = o.q_offset;
  f.kv_offset = o.kv_offset;
  f.tag = o.tag;
  f.scratch = o.scratch;
  f.executor = o.executor;
  return f;
}

/// What a rank has of a problem; outputs full of NaN.
template <class S>
struct shard : backward_problem<S> {
  shard(const backward_problem<S>& p, const token_layout& q_layout, const token_layout& kv_layout, int rank)
      : backward_problem<S>({p.q.extent(0), p.q.extent(1), p.k.extent(1), q_layout.count(rank), kv_layout.count(rank),
                             p.q.extent(3), p.v.extent(3)}) {
    heed::to_layout(p.q, this->q, q_layout, rank);
    heed::to_layout(p.dout, this->dout, q_layout, rank);
    heed::to_layout(p.dlse, this->dlse, q_layout, rank);
    heed::to_layout(p.k, this->k, kv_layout, rank);
    heed::to_layout(p.v, this->v, kv_layout, rank);
  }
};

/// How a problem is solved by ranks, and what was seen of it.
struct ring_run {
  owned_layout q, kv;
  support::hostility how{};
  /// Messages that each rank sent in both calls, forward's first.
  std::vector<std::vector<support::hostile_transport::sent_message>> sent{};
  std::vector<int> calls{}, forward_messages{};
  /// Polls of each rank while messages were under way: keys forward, keys back, sums back.
  std::vector<std::array<int, 3>> overlapped{};
};

/// A mod, or the one that a rank has in its place: what it learns must go to memory of its own.
template <class Mod>
decltype(auto) mod_of(const Mod& mod, int rank) {
  if constexpr (requires { mod.of_rank(rank); })
    return mod.of_rank(rank);
  else
    return (mod);
}

/// Forward and backward over ranks; the results are put together in p. `bias` of options: of all rows.
template <class S, class... Mods>
void solve_ring(backward_problem<S>& p, ring_run& run, const softmax_backward_options<S>& options,
                const Mods&... mods) {
  const int ranks = run.q.layout.ranks();
  run.sent.assign(static_cast<std::size_t>(ranks), {});
  run.calls.assign(static_cast<std::size_t>(ranks), 0);
  run.overlapped.assign(static_cast<std::size_t>(ranks), {});
  run.forward_messages.assign(static_cast<std::size_t>(ranks), 0);
  heed::in_process_group group(ranks, 60);
  group.run([&](heed::in_process_transport& plain) {
    support::hostile_transport transport(plain, run.how);
    const int r = transport.rank();
    const token_layout &ql = run.q.layout, &kl = run.kv.layout;
    shard<S> own(p, ql, kl, r);
    heed::ring_backward_options<S> o = rank_options(options);
    o.layout = ql;
    o.kv_layout = kl;
    tensor<S, 4> bias, dbias;
    if (options.bias) {
      const view<const S, 4> all = options.bias;
      bias = tensor<S, 4>({all.extent(0), all.extent(1), all.extent(2) == 1 ? 1 : ql.count(r), all.extent(3)});
      if (all.extent(2) == 1)
        std::copy_n(all.data(), bias.size(), bias.data());
      else
        heed::to_layout(all, bias, ql, r);
      o.bias = bias;
    }
    heed::ring_options<S> f = forward_options(o);
    f.lse = own.lse;
    heed::ring_forward(transport, own.q, own.k, own.v, own.out, f, mod_of(mods, r)...);
    run.forward_messages[static_cast<std::size_t>(r)] = static_cast<int>(transport.sent.size());
    const int forward_polls = transport.polls_with_messages[0];
    if (options.dlse) o.dlse = own.dlse;
    if (options.dsink) o.dsink = own.dsink;
    if (options.dbias) {
      dbias =
          tensor<S, 4>::full({bias.extent(0), bias.extent(1), bias.extent(2), bias.extent(3)}, support::quiet_nan<S>);
      o.dbias = dbias;
    }
    heed::ring_backward(transport, own.q, own.k, own.v, own.out, own.lse, own.dout, own.dq, own.dk, own.dv, o,
                        mod_of(mods, r)...);
    heed::from_layout(own.out, p.out, ql, r);
    heed::from_layout(own.lse, p.lse, ql, r);
    heed::from_layout(own.dq, p.dq, ql, r);
    heed::from_layout(own.dk, p.dk, kl, r);
    heed::from_layout(own.dv, p.dv, kl, r);
    if (options.dbias) heed::from_layout(dbias, options.dbias, ql, r);
    static std::mutex one;
    const std::lock_guard<std::mutex> lock(one);
    // The last rank's; that all have the same bits is what the caller may ask.
    if (options.dsink)
      for (index_t h = 0; h < own.dsink.size(); ++h) {
        if (!std::isnan(p.dsink(h)) && p.dsink(h) != own.dsink(h)) throw std::logic_error("ranks differ in dsink");
        p.dsink(h) = own.dsink(h);
      }
    run.sent[static_cast<std::size_t>(r)] = transport.sent;
    run.calls[static_cast<std::size_t>(r)] = transport.polls + transport.collectives;
    run.overlapped[static_cast<std::size_t>(r)] = {forward_polls, transport.polls_with_messages[0] - forward_polls,
                                                   transport.polls_with_messages[1]};
  });
}

/// Solves p over ranks and returns the worst error of results and gradients against the definition.
template <class S, class... Mods>
double ring_error(backward_problem<S>& p, ring_run& run, softmax_backward_options<S> options,
                  const reference::softmax_arguments& arguments, const Mods&... mods) {
  if (options.sink) options.dsink = p.dsink;
  solve_ring(p, run, options, mods...);
  double worst = softmax_test::worst_error(p, reference::softmax<S>(p.q, p.k, p.v, arguments));
  const auto expected = reference::softmax_backward<S>(p.q, p.k, p.v, p.dout, options.dlse, arguments);
  using T = heed::accumulator_t<S>;
  worst = support::worse(worst, softmax_test::worst_error(p, expected, p.q.extent(2), p.k.extent(2)));
  if (options.sink)
    worst = support::worse(worst, softmax_test::worst_gradient<T, 1>(p.dsink, expected.dsink, expected.dsink_noise));
  if (options.dbias)
    worst =
        support::worse(worst, softmax_test::worst_gradient<S, 4>(options.dbias, expected.dbias, expected.dbias_noise));
  return worst;
}

template <class S>
bool same_results(const backward_problem<S>& a, const backward_problem<S>& b) {
  return softmax_test::same_result<S>(a, b) && softmax_test::same_gradients<S>(a, b);
}

}  // namespace ring_test
