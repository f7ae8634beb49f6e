/// Attention over several sets of keys, and its gradients, from the definition: one softmax over the union of all keys,
/// or the sum of one softmax for each set.
#pragma once

#include <heed/core/float16.hpp>
#include <heed/core/tensor.hpp>
#include <heed/core/view.hpp>

#include <cmath>
#include <functional>
#include <optional>
#include <vector>

#include "reference/softmax.hpp"
#include "reference/softmax_backward.hpp"

namespace reference {

/// Positions count from the start of the segment, in a packed batch from the start of the sequence's part of it.
template <class S>
struct softmax_segment {
  heed::view<const S, 4> k, v;              // [B,G,M_s,D] and [B,G,M_s,E], or of batch extent 1
  std::function<double(int h)> log_weight;  // 0; -inf removes the segment
  std::optional<double> blend;              // in every segment or in none
  std::function<bool(int b, int h, int p, int t)> visible;
  index_t window_left = -1, window_right = -1;
  std::optional<index_t> q_offset;  // M_s - N
  index_t kv_offset = 0;
  std::vector<index_t> cu_k;
};

/// Of one segment, as in softmax_gradients.
struct softmax_segment_gradients {
  heed::tensor<double, 4> dk, dk_noise, dv, dv_noise;      // extents of the segment's k and v
  heed::tensor<double, 1> dlog_weight, dlog_weight_noise;  // [H]
  double dblend = 0, dblend_noise = 0;
};

/// `call` holds dq, dsink and dscore; its other gradients are empty.
struct softmax_segments_gradients {
  softmax_gradients call;
  std::vector<softmax_segment_gradients> segments;
};

namespace detail {

struct key_of_segment {
  std::size_t segment;
  index_t local, row;  // within the sequence's part, and in k
};

/// The keys of all segments one after another, as one call. Parameters of the call's score mods come first, then the
/// log weight of segment s and head h, as number s H + h.
template <class S>
struct joined_segments {
  heed::tensor<S, 4> k, v;
  std::vector<std::vector<key_of_segment>> keys;  // by sequence; the same for every batch entry
  softmax_arguments arguments;
};

template <class S>
joined_segments<S> join(const heed::view<const S, 4>& q, const std::vector<softmax_segment<S>>& segments,
                        const softmax_arguments& call) {
  const bool packed = !call.cu_q.empty();
  const index_t B = q.extent(0), H = q.extent(1), G = segments.at(0).k.extent(1), D = q.extent(3),
                E = segments.at(0).v.extent(3);
  joined_segments<S> all;
  all.arguments = call;
  all.arguments.q_offset = 0;
  if (packed) all.arguments.cu_k = {0};
  index_t M = 0;
  for (std::size_t n = 0; n < (packed ? call.cu_q.size() - 1 : 1); ++n) {
    all.keys.emplace_back();
    for (std::size_t s = 0; s < segments.size(); ++s) {
      const index_t first = packed ? segments[s].cu_k[n] : 0;
      const index_t last = packed ? segments[s].cu_k[n + 1] : segments[s].k.extent(2);
      for (index_t j = first; j < last; ++j) all.keys[n].push_back({s, j - first, j});
    }
    M += static_cast<index_t>(all.keys[n].size());
    if (packed) all.arguments.cu_k.push_back(M);
  }

  all.k = heed::tensor<S, 4>({B, G, M, D});
  all.v = heed::tensor<S, 4>({B, G, M, E});
  for (index_t b = 0; b < B; ++b)
    for (index_t g = 0; g < G; ++g) {
      index_t J = 0;
      for (const auto& sequence : all.keys)
        for (const key_of_segment& key : sequence) {
          const auto& from = segments[key.segment];
          const index_t entry = from.k.extent(0) == 1 ? 0 : b;
          for (index_t d = 0; d < D; ++d) all.k(b, g, J, d) = from.k(entry, g, key.row, d);
          for (index_t e = 0; e < E; ++e) all.v(b, g, J, e) = from.v(entry, g, key.row, e);
          ++J;
        }
    }

  // What mods are told of query i and key J of the joined call.
  struct place {
    std::size_t segment;
    int p, t;
  };
  const auto find = [=, keys = all.keys](int b, int i, int J) -> place {
    const auto n = static_cast<std::size_t>(packed ? b : 0);
    const key_of_segment key = keys[n][static_cast<std::size_t>(J)];
    const auto& segment = segments[key.segment];
    const index_t queries = packed ? call.cu_q[n + 1] - call.cu_q[n] : q.extent(2);
    const index_t mine = packed ? segment.cu_k[n + 1] - segment.cu_k[n] : segment.k.extent(2);
    return {key.segment, static_cast<int>(i + segment.q_offset.value_or(mine - queries)),
            static_cast<int>(key.local + segment.kv_offset)};
  };
  all.arguments.visible = [=](int b, int h, int i, int J) {
    const place at = find(b, i, J);
    const auto& segment = segments[at.segment];
    if (segment.log_weight && segment.log_weight(h) == nothing) return false;
    if (segment.window_left >= 0 && at.t < at.p - segment.window_left) return false;
    if (segment.window_right >= 0 && at.t > at.p + segment.window_right) return false;
    return !segment.visible || segment.visible(b, h, at.p, at.t);
  };
  all.arguments.score = [=](double s, int b, int h, int i, int J) {
    const place at = find(b, i, J);
    const auto& weight = segments[at.segment].log_weight;
    return (call.score ? call.score(s, b, h, at.p, at.t) : s) + (weight ? weight(h) : 0);
  };
  if (!call.score || call.score_slope)
    all.arguments.score_slope = [=](double s, int b, int h, int i, int J) {
      const place at = find(b, i, J);
      return call.score ? call.score_slope(s, b, h, at.p, at.t) : 1;
    };
  all.arguments.score_partial = [=](int n, double s, int b, int h, int i, int J) -> double {
    const place at = find(b, i, J);
    if (n < call.score_parameters) return call.score_partial(n, s, b, h, at.p, at.t);
    return n - call.score_parameters == static_cast<int>(at.segment) * static_cast<int>(H) + h ? 1 : 0;
  };
  all.arguments.score_parameters = call.score_parameters + static_cast<int>(segments.size()) * static_cast<int>(H);
  return all;
}

/// Those that share a softmax: all of them, or each by itself where they are blended.
template <class S>
std::vector<std::vector<softmax_segment<S>>> softmaxes_of(const std::vector<softmax_segment<S>>& segments) {
  if (!segments.at(0).blend) return {segments};
  std::vector<std::vector<softmax_segment<S>>> alone;
  for (const auto& segment : segments) alone.push_back({segment});
  return alone;
}

/// to += factor * from; an empty `to` counts as zeros.
template <int Rank>
void accumulate(heed::tensor<double, Rank>& to, const heed::tensor<double, Rank>& from, double factor = 1) {
  if (to.data() == nullptr) {
    to = from;
    to.fill(0);
  }
  for (index_t x = 0; x < to.size(); ++x) to.data()[x] += factor * from.data()[x];
}

}  // namespace detail

/// At least one segment. `call` says what concerns queries and scores: scale, softcap, score mods, sink (not beside a
/// blend), cu_q. A blend has no lse: that of the result is empty.
template <class S>
softmax_result softmax_segments(const heed::view<const S, 4>& q, const std::vector<softmax_segment<S>>& segments,
                                const softmax_arguments& call = {}) {
  softmax_result result{};
  for (const auto& group : detail::softmaxes_of(segments)) {
    const auto joined = detail::join(q, group, call);
    softmax_result one = softmax<S>(q, joined.k, joined.v, joined.arguments);
    const double factor = group[0].blend.value_or(1);
    detail::accumulate(result.out, one.out, factor);
    detail::accumulate(result.out_noise, one.out_noise, std::fabs(factor));
    result.rows = one.rows;
    if (group[0].blend) continue;
    result.lse.swap(one.lse);
    result.lse_noise.swap(one.lse_noise);
  }
  return result;
}

/// dlse: {} for a blend.
template <class S>
softmax_segments_gradients softmax_segments_backward(const heed::view<const S, 4>& q,
                                                     const std::vector<softmax_segment<S>>& segments,
                                                     const heed::view<const S, 4>& dout,
                                                     const heed::view<const heed::accumulator_t<S>, 3>& dlse,
                                                     const softmax_arguments& call = {}) {
  const index_t H = q.extent(1);
  softmax_segments_gradients result;
  result.call.dscore.assign(static_cast<std::size_t>(call.score_parameters), 0);
  result.call.dscore_noise = result.call.dscore;
  for (const auto& group : detail::softmaxes_of(segments)) {
    const auto joined = detail::join(q, group, call);
    const softmax_gradients one =
        softmax_backward<S>(q, joined.k, joined.v, dout, dlse, joined.arguments, group[0].blend.value_or(1));
    detail::accumulate(result.call.dq, one.dq);
    detail::accumulate(result.call.dq_noise, one.dq_noise);
    if (call.sink) {
      detail::accumulate(result.call.dsink, one.dsink);
      detail::accumulate(result.call.dsink_noise, one.dsink_noise);
    }
    auto parameter = static_cast<std::size_t>(call.score_parameters);
    for (std::size_t n = 0; n < parameter; ++n) {
      result.call.dscore[n] += one.dscore[n];
      result.call.dscore_noise[n] += one.dscore_noise[n];
    }

    const std::size_t first = result.segments.size();
    for (const auto& segment : group) {
      auto& own = result.segments.emplace_back();
      own.dk = own.dk_noise = detail::zeros(segment.k);
      own.dv = own.dv_noise = detail::zeros(segment.v);
      own.dlog_weight = own.dlog_weight_noise = heed::tensor<double, 1>({H});
      for (index_t h = 0; h < H; ++h, ++parameter) {
        own.dlog_weight(h) = one.dscore[parameter];
        own.dlog_weight_noise(h) = one.dscore_noise[parameter];
      }
    }
    for (index_t b = 0; b < joined.k.extent(0); ++b)
      for (index_t g = 0; g < joined.k.extent(1); ++g) {
        index_t J = 0;
        for (const auto& sequence : joined.keys)
          for (const detail::key_of_segment& key : sequence) {
            auto& own = result.segments[first + key.segment];
            const index_t entry = own.dk.extent(0) == 1 ? 0 : b;
            for (index_t d = 0; d < own.dk.extent(3); ++d) {
              own.dk(entry, g, key.row, d) += one.dk(b, g, J, d);
              own.dk_noise(entry, g, key.row, d) += one.dk_noise(b, g, J, d);
            }
            for (index_t e = 0; e < own.dv.extent(3); ++e) {
              own.dv(entry, g, key.row, e) += one.dv(b, g, J, e);
              own.dv_noise(entry, g, key.row, e) += one.dv_noise(b, g, J, e);
            }
            ++J;
          }
      }
    if (!group[0].blend) continue;

    // out = sum_s blend_s out_s
    auto& own = result.segments.back();
    const softmax_result forward = softmax<S>(q, joined.k, joined.v, joined.arguments);
    for (index_t b = 0; b < q.extent(0); ++b)
      for (index_t h = 0; h < H; ++h)
        for (index_t i = 0; i < forward.rows; ++i) {
          if (forward.lse(b, h, i) == detail::nothing) continue;
          for (index_t e = 0; e < dout.extent(3); ++e) {
            const auto upstream = static_cast<double>(dout(b, h, i, e));
            own.dblend += upstream * forward.out(b, h, i, e);
            own.dblend_noise += std::fabs(upstream) * forward.out_noise(b, h, i, e);
          }
        }
  }
  return result;
}

}  // namespace reference
