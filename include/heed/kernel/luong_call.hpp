/// Calls of the softmax engine with one head whose queries are target steps and whose keys are source states.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/luong_options.hpp>
#include <heed/kernel/softmax_backward_run.hpp>
#include <heed/kernel/softmax_checks.hpp>
#include <heed/kernel/softmax_run.hpp>
#include <heed/kernel/source_windows.hpp>

#include <cmath>

HEED_ARCH_BEGIN
namespace detail {

/// [B,N,D] as [B,1,N,D].
template <class T>
view<T, 4> as_one_head(const view<T, 3>& t) noexcept {
  return {t.data(), {t.extent(0), 1, t.extent(1), t.extent(2)}, {t.stride(0), 0, t.stride(1), t.stride(2)}};
}
template <class T>
view<T, 3> as_one_head(const view<T, 2>& t) noexcept {
  return {t.data(), {t.extent(0), 1, t.extent(1)}, {t.stride(0), 0, t.stride(1)}};
}

/// A tensor and what messages call it.
template <class S>
struct named_states {
  const view<const S, 3>& states;
  const char* name;
};

template <class S>
HEED_COLD void check_luong(const checker& check, const named_states<S>& q, const named_states<S>& k,
                           const named_states<S>& v, const sequence_lengths& lengths) {
  // Positions are numbers of type float besides.
  constexpr index_t limit = index_t(1) << 24;
  for (const auto& [t, name] : {q, k, v}) {
    check.tensor(t, name);
    check.require(t.extent(2) > 0, text("%s.extent(2)", name).c_str(), "at least 1", t.extent(2));
    check.require(t.extent(1) <= limit, text("%s.extent(1)", name).c_str(), "at most 2^24", t.extent(1));
    check.extent(t, name, 0, q.states.extent(0), text("B, as %s", q.name).c_str());
  }
  check.extent(k.states, k.name, 2, q.states.extent(2), text("as %s", q.name).c_str());
  check.extent(v.states, v.name, 1, k.states.extent(1), text("S, as %s", k.name).c_str());
  check_lengths(check, lengths, "options.lengths", q.states.extent(0), k.states.extent(1));
}

/// A tensor of the extents of another.
template <class T, class U, int Rank>
HEED_COLD void check_extents(const checker& check, const view<T, Rank>& t, const char* name, const view<U, Rank>& like,
                             const char* like_name) {
  for (int axis = 0; axis < Rank; ++axis)
    check.extent(t, name, axis, like.extent(axis), text("as %s", like_name).c_str());
}
template <class T, class U, int Rank>
HEED_COLD void check_output_like(const checker& check, const view<T, Rank>& t, const char* name,
                                 const view<U, Rank>& like, const char* like_name) {
  check.output(t, name);
  check_extents(check, t, name, like, like_name);
}

/// out and dout: [B,N,E]
template <class T, class S>
HEED_COLD void check_contexts(const checker& check, const view<T, 3>& t, const char* name, const named_states<S>& q,
                              const named_states<S>& v) {
  check.tensor(t, name);
  check.extent(t, name, 0, q.states.extent(0), text("B, as %s", q.name).c_str());
  check.extent(t, name, 1, q.states.extent(1), text("N, as %s", q.name).c_str());
  check.extent(t, name, 2, v.states.extent(2), text("as %s", v.name).c_str());
}

/// One number a target step, of any strides.
template <class T, class S>
HEED_COLD void check_step_numbers(const checker& check, const view<T, 2>& numbers, const char* name,
                                  const named_states<S>& q) {
  check.extent(numbers, name, 0, q.states.extent(0), text("B, as %s", q.name).c_str());
  check.extent(numbers, name, 1, q.states.extent(1), text("N, as %s", q.name).c_str());
  if constexpr (std::is_const_v<T>)
    check.require(numbers.data() != nullptr || is_empty(numbers), name, "data", "a null pointer");
  else
    check_scattered_output(check, as_one_head(numbers), name);
}

HEED_COLD inline void check_steps(const checker& check, const setting<index_t>& reach, index_t first_step) {
  check.require(reach.or_default(0) >= 0, "options.reach", "at least 0", reach.or_default(0));
  constexpr index_t limit = index_t(1) << 29;
  check.require(first_step >= -limit && first_step <= limit, "options.first_step", "steps within +-2^29", first_step);
}

inline step_window window_of(const sequence_lengths& lengths, index_t states, const setting<index_t>& reach) noexcept {
  return {{lengths, states}, std::min(reach.or_default(step_window::unbounded), step_window::unbounded)};
}

template <class S, class Mask>
softmax_segment_rows<accumulator_t<S>, dense_keys<S>, Mask> source_segment(const view<const S, 3>& k,
                                                                           const view<const S, 3>& v,
                                                                           index_t first_step,
                                                                           const Mask& mask) noexcept {
  return {{as_one_head(k), as_one_head(v)}, {-1, -1, mask}, first_step, 0, {}, 1};
}

/// A checked forward call. `policies`: pair scores and value factors.
template <class A, class S, class Mask, class... Policies>
void run_luong(const checker& check, const view<const S, 3>& q, const view<const S, 3>& k, const view<const S, 3>& v,
               const view<S, 3>& out, const view<accumulator_t<S>, 2>& lse, index_t first_step, const Mask& mask,
               scratch_view scratch, const executor_ref& where, const Policies&... policies) {
  const softmax_rows<S> rows{as_one_head(q), as_one_head(out), as_one_head(lse), {}, {}, 1, {}};
  const auto segment = source_segment<S>(k, v, first_step, mask);
  run_softmax<A>(
      check, rows, [&](const auto& f) { f(segment); }, false,
      score_chain<Policies...>{0, std::tuple<const Policies&...>(policies...)}, scratch, resolve(where));
}

/// Scratch, in bytes, of a forward call with keys of `features` and values of `value_features` numbers.
template <class S, class A>
index_t luong_bytes(index_t features, index_t value_features, const executor_ref& where) {
  const index_t share =
      softmax_worker_bytes<S, A>(features, value_features, !std::is_same_v<S, accumulator_t<S>>, false, false);
  return scratch_total(share, resolve(where).concurrency);
}

/// A backward call: its tensors, all of them checked or, for its size, all without data.
template <class S>
struct luong_gradients {
  using T = accumulator_t<S>;
  view<const S, 3> q, k, v, out;
  view<const T, 2> lse;
  view<const S, 3> dout;
  view<S, 3> dq, dk, dv;  // dk and dv are one where keys are values

  softmax_gradient_rows<S> rows() const noexcept {
    return {as_one_head(q),
            as_one_head(out),
            as_one_head(lse),
            as_one_head(dout),
            {},
            {},
            {},
            as_one_head(dq),
            {},
            {},
            1,
            {}};
  }
  template <class Mask>
  softmax_gradient_segment<S, Mask> segment(index_t first_step, const Mask& mask) const noexcept {
    return {source_segment<S>(k, v, first_step, mask), as_one_head(dk), as_one_head(dv)};
  }
};

template <class A, class S, class Mask, class... Policies>
void run_luong_backward(const checker& check, const luong_gradients<S>& call, index_t first_step, const Mask& mask,
                        scratch_view scratch, const executor_ref& where, const Policies&... policies) {
  const auto rows = call.rows();
  const auto segment = call.segment(first_step, mask);
  run_softmax_backward<A>(
      check, rows, [&](const auto& f) { f(segment); },
      score_chain<Policies...>{0, std::tuple<const Policies&...>(policies...)}, scratch, resolve(where));
}

/// Scratch, in bytes, of a backward call. Data is not looked at.
template <class A, class S, class... Policies>
index_t luong_backward_bytes(const view<const S, 3>& q, const view<const S, 3>& k, const view<const S, 3>& v,
                             const executor_ref& where, const Policies&... policies) {
  const auto without_data = [](const view<const S, 3>& t) {
    return view<S, 3>(nullptr, {t.extent(0), t.extent(1), t.extent(2)});
  };
  const luong_gradients<S> call{q, k, v, v, {}, {}, without_data(q), without_data(k), without_data(v)};
  const auto rows = call.rows();
  const auto segment = call.segment(0, no_mask);
  return softmax_backward_bytes<A>(
      rows, [&](const auto& f) { f(segment); },
      score_chain<Policies...>{0, std::tuple<const Policies&...>(policies...)}, resolve(where));
}

}  // namespace detail
HEED_ARCH_END
