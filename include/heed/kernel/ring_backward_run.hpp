/// Runs a checked ring_backward call: keys come round once more, and the sums of their gradients one step behind them.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/kernel/ring_plan.hpp>
#include <heed/kernel/softmax_backward_run.hpp>

#include <utility>

HEED_ARCH_BEGIN
namespace detail {

/// to += from, or, between types, to = from. Rows stand as they travel, one right after the other: aligned to nothing.
template <class A, class T, class S>
void take_gradients(const view<const T, 4>& from, bool adds, const view<S, 4>& to) noexcept {
  using P = pack<T, A>;
  const index_t features = to.extent(3);
  for (index_t b = 0; b < to.extent(0); ++b)
    for (index_t h = 0; h < to.extent(1); ++h)
      for (index_t i = 0; i < to.extent(2); ++i) {
        const T* const row = &from(b, h, i, 0);
        S* const sums = &to(b, h, i, 0);
        index_t e = 0;
        for (; e + P::lanes <= features; e += P::lanes) {
          P sum = P::load(row + e);
          if (adds) sum += load_as<T, A>(sums + e);
          store_as(sums + e, sum);
        }
        for (; e < features; ++e) sums[e] = static_cast<S>(adds ? static_cast<T>(sums[e]) + row[e] : row[e]);
      }
}

/// A ring_backward call in progress on one rank.
template <class A, class S, class Mask, class... Mods>
class ring_backward_run {
 public:
  using T = accumulator_t<S>;

  /// `rows`: of the call as one over all keys; its gradients are where they belong.
  ring_backward_run(const ring_plan& plan, int last, const softmax_gradient_rows<S>& rows, const view<const S, 4>& k,
                    const view<const S, 4>& v, const windowed<Mask>& mask, const score_chain<Mods...>& chain,
                    const executor_ref& where) noexcept
      : plan_(plan),
        last_(last),
        rows_(rows),
        k_(k),
        v_(v),
        mask_(mask),
        place_{nullptr, nullptr, rows.q.extent(2), 0},
        gradients_(parameter_gradients_, {parameters}),
        scores_(place_scores(place_, chain, parameters > 0 ? gradients_ : view<double, 1>{})),
        softcap_(chain.softcap),
        chain_(chain),
        where_(where) {}
  ring_backward_run(const ring_backward_run&) = delete;
  ring_backward_run& operator=(const ring_backward_run&) = delete;

  index_t bytes() {
    scratch_cursor count(nullptr);
    take_memory(count);
    return scratch_total(count.used(), 1);
  }

  template <class Transport>
  void run(const checker& check, Transport& ranks, const view<S, 4>& dk, const view<S, 4>& dv, scratch_view scratch,
           int tag) {
    const scratch_block block(check, scratch, bytes());
    scratch_cursor cursor(block.data());
    take_memory(cursor);
    list_tokens(plan_.queries, plan_.rank, plan_.q_offset, query_positions_);
    place_.of_queries = query_positions_;
    place_.of_keys = key_positions_;
    transport_watch watch(ranks);
    if (plan_.ranks() > 1) watch_ = watch.watch();
    std::fill_n(parameter_sums_, parameters, 0.0);
    clear_gradients();
    if (last_ > 0) {
      const key_value_shard<S> own = keys_of_step(0);
      copy_rows(k_, own.k);
      copy_rows(v_, own.v);
    }
    const int owner = plan_.source(last_), holder = (plan_.rank + last_) % plan_.ranks();
    typename Transport::request sums[2];
    for (int step = 0; step <= last_; ++step) {
      typename Transport::request keys[2];
      if (step < last_) {
        keys[0] = ranks.irecv(keys_of_step(step + 1).bytes(), plan_.previous(), tag);
        keys[1] = ranks.isend(keys_of_step(step).bytes(), plan_.next(), tag);
      }
      const key_value_shard<T> here = sums_of_step(step);
      differentiate(check, step, here);
      if (step > 0) {
        ranks.wait_all({sums, {2}});
        const key_value_shard<T> arrived = arriving_sums(step);
        take_gradients<A, T>(arrived.k, true, here.k);
        take_gradients<A, T>(arrived.v, true, here.v);
      }
      if (last_ > 0) {
        // After the last step they go home at once.
        const bool home = step == last_;
        sums[0] = ranks.irecv((home ? arriving_sums(0) : arriving_sums(step + 1)).bytes(),
                              home ? holder : plan_.previous(), tag + 1);
        sums[1] = ranks.isend(here.bytes(), home ? owner : plan_.next(), tag + 1);
      }
      if (step < last_) ranks.wait_all({keys, {2}});
    }
    if (last_ > 0) ranks.wait_all({sums, {2}});
    const key_value_shard<T> own = last_ > 0 ? arriving_sums(0) : sums_of_step(0);
    take_gradients<A, T>(own.k, false, dk);
    take_gradients<A, T>(own.v, false, dv);
    if constexpr (!same_type) take_gradients<A, T>(query_sums(), false, rows_.dq);
    write_sums_over_ranks(ranks);
  }

 private:
  static constexpr bool same_type = std::is_same_v<S, T>;
  static constexpr int parameters = score_chain<Mods...>::parameters;

  void take_memory(scratch_cursor& memory) noexcept {
    const index_t queries = rows_.q.extent(2), most = plan_.largest_shard();
    const index_t shard = key_value_shard<S>::elements(batch(), groups(), most, d(), e());
    query_positions_ = memory.take<std::int32_t>(queries + position_padding);
    key_positions_ = memory.take<std::int32_t>(most + position_padding);
    bias_columns_ = rows_.bias ? memory.take<std::int32_t>(most + position_padding) : nullptr;
    for (S*& keys : keys_) keys = plan_.ranks() > 1 ? memory.take<S>(shard) : nullptr;
    for (T*& sums : sums_) sums = &sums == sums_ || plan_.ranks() > 1 ? memory.take<T>(shard) : nullptr;
    const index_t rows = batch() * heads() * queries * d();
    step_queries_ = memory.take<T>(rows);
    query_sums_ = same_type ? nullptr : memory.take<T>(rows);
    sink_sums_ = rows_.dsink ? memory.take<T>(heads()) : nullptr;
    work_bytes_ = 0;
    for (int r = 0; r < plan_.ranks(); ++r) {
      const index_t keys = plan_.keys.count(r);
      const auto rows_of_step = step_rows(keys, true);
      const auto each = [&](const auto& f) {
        f(segment({nullptr, {batch(), groups(), keys, d()}}, {nullptr, {batch(), groups(), keys, e()}},
                  key_value_shard<T>(nullptr, batch(), groups(), keys, d(), e())));
      };
      work_bytes_ =
          std::max(work_bytes_, softmax_backward_bytes<A>(rows_of_step, each, chain_placed(softcap_, scores_), where_));
    }
    work_ = memory.take<std::byte>(work_bytes_);
  }

  index_t batch() const noexcept { return rows_.q.extent(0); }
  index_t heads() const noexcept { return rows_.q.extent(1); }
  index_t groups() const noexcept { return k_.extent(1); }
  index_t d() const noexcept { return rows_.q.extent(3); }
  index_t e() const noexcept { return rows_.out.extent(3); }

  key_value_shard<S> keys_of_step(int step) const noexcept {
    return {keys_[step % 2], batch(), groups(), plan_.keys.count(plan_.source(step)), d(), e()};
  }
  /// What this rank adds up in a step, and sends while it is at the next.
  key_value_shard<T> sums_of_step(int step) const noexcept {
    return {sums_[last_ > 0 ? step % 2 : 0], batch(), groups(), plan_.keys.count(plan_.source(step)), d(), e()};
  }
  key_value_shard<T> arriving_sums(int step) const noexcept {
    return {sums_[2], batch(), groups(), plan_.keys.count(plan_.source(step)), d(), e()};
  }
  view<T, 4> query_sums() const noexcept {
    if constexpr (same_type)
      return rows_.dq;
    else
      return {query_sums_, {batch(), heads(), rows_.q.extent(2), d()}};
  }

  /// The call of one step, over the keys of one rank.
  softmax_gradient_rows<S, T> step_rows(index_t keys, bool first) const noexcept {
    const auto columns = [keys](auto bias) { return bias ? bias.slice(3, 0, std::min(keys, bias.extent(3))) : bias; };
    return {rows_.q,
            rows_.out,
            rows_.lse,
            rows_.dout,
            rows_.dlse,
            rows_.sink,
            columns(rows_.bias),
            {step_queries_, {batch(), heads(), rows_.q.extent(2), d()}},
            first && rows_.dsink ? view<T, 1>(sink_sums_, {heads()}) : view<T, 1>{},
            columns(rows_.dbias),
            rows_.scale,
            {}};
  }
  softmax_gradient_segment<S, placed_mask<Mask>, T> segment(const view<const S, 4>& k, const view<const S, 4>& v,
                                                            const key_value_shard<T>& to) const noexcept {
    return {{{k, v}, {-1, -1, placed_}, 0, 0, {}, 1, bias_columns_}, to.k, to.v};
  }

  void clear_gradients() const noexcept {
    const view<T, 4> dq = query_sums();
    for (index_t b = 0; b < batch(); ++b)
      for (index_t h = 0; h < heads(); ++h)
        for (index_t i = 0; i < dq.extent(2); ++i) std::fill_n(&dq(b, h, i, 0), d(), T(0));
    const view<S, 4>& dbias = rows_.dbias;
    for (index_t b = 0; b < dbias.extent(0); ++b)
      for (index_t h = 0; h < dbias.extent(1); ++h)
        for (index_t i = 0; i < dbias.extent(2); ++i) std::fill_n(&dbias(b, h, i, 0), dbias.extent(3), S(0));
  }

  /// Gradients of the keys of a step by the queries of this rank.
  void differentiate(const checker& check, int step, const key_value_shard<T>& to) {
    const int source = plan_.source(step);
    if (step > 0 && sees_nothing_of(plan_, source, mask_, batch(), heads())) {
      std::fill_n(to.k.data(), to.k.size() + to.v.size(), T(0));
      return;
    }
    list_tokens(plan_.keys, source, plan_.kv_offset, key_positions_);
    place_.keys = plan_.keys.count(source);
    if (rows_.bias) list_tokens(plan_.keys, source, 0, bias_columns_);
    const key_value_shard<S> keys = keys_of_step(step);
    const auto rows_of_step = step_rows(place_.keys, step == 0);
    const auto segment_of_step =
        segment(step == 0 ? k_ : view<const S, 4>(keys.k), step == 0 ? v_ : view<const S, 4>(keys.v), to);
    placed_.watch = watch_;
    run_softmax_backward<A>(
        check, rows_of_step, [&](const auto& f) { f(segment_of_step); }, chain_placed(softcap_, scores_),
        {work_, work_bytes_}, where_);
    take_gradients<A, T>(rows_of_step.dq, true, query_sums());
    for (int m = 0; m < parameters; ++m) parameter_sums_[m] += parameter_gradients_[m];
  }

  /// Gradients of what all ranks share.
  template <class Transport>
  void write_sums_over_ranks(Transport& ranks) {
    if (rows_.dsink) {
      const view<T, 1> sums(sink_sums_, {heads()});
      if (ranks.size() > 1) ranks.allreduce_sum(sums);
      for (index_t h = 0; h < heads(); ++h) rows_.dsink[h] = sums[h];
    }
    if constexpr (parameters > 0) {
      if (ranks.size() > 1) ranks.allreduce_sum(view<double, 1>(parameter_sums_, {parameters}));
      const double* sum = parameter_sums_;
      const auto write = [&](const auto& mod) {
        using mod_type = std::remove_cvref_t<decltype(mod)>;
        if constexpr (parameters_of<mod_type> > 0) {
          for (int m = 0; m < mod_type::parameters && mod.gradients(); ++m) mod.gradients()[m] = sum[m];
          sum += mod_type::parameters;
        }
      };
      std::apply([&](const auto&... mod) { (write(mod), ...); }, chain_.mods);
    }
  }

  const ring_plan& plan_;
  int last_;
  const softmax_gradient_rows<S>& rows_;
  view<const S, 4> k_, v_;
  const windowed<Mask>& mask_;
  placement place_;
  tile_watch watch_{};
  placed_mask<Mask> placed_{place_, mask_, {}};
  double parameter_gradients_[parameters + 1];
  double parameter_sums_[parameters + 1];
  view<double, 1> gradients_;
  std::tuple<placed_score<Mods>...> scores_;
  double softcap_;
  const score_chain<Mods...>& chain_;
  const executor_ref& where_;
  std::int32_t* query_positions_ = nullptr;
  std::int32_t* key_positions_ = nullptr;
  std::int32_t* bias_columns_ = nullptr;
  S* keys_[2] = {};
  T* sums_[3] = {};  // of two steps in turn, and of the keys that arrive
  T* step_queries_ = nullptr;
  T* query_sums_ = nullptr;
  T* sink_sums_ = nullptr;
  std::byte* work_ = nullptr;
  index_t work_bytes_ = 0;
};

template <class A, class S, class Mask, class... Mods>
index_t ring_backward_bytes(const ring_plan& plan, const softmax_gradient_rows<S>& rows, const view<const S, 4>& k,
                            const view<const S, 4>& v, const windowed<Mask>& mask, const score_chain<Mods...>& chain,
                            const executor_ref& where) {
  return ring_backward_run<A, S, Mask, Mods...>(plan, 0, rows, k, v, mask, chain, where).bytes();
}

/// `last`: the last step in which any rank may see a key.
template <class A, class S, class Transport, class Mask, class... Mods>
void run_ring_backward(const checker& check, Transport& ranks, const ring_plan& plan, int last,
                       const softmax_gradient_rows<S>& rows, const view<const S, 4>& k, const view<const S, 4>& v,
                       const view<S, 4>& dk, const view<S, 4>& dv, const windowed<Mask>& mask,
                       const score_chain<Mods...>& chain, scratch_view scratch, const executor_ref& where, int tag) {
  ring_backward_run<A, S, Mask, Mods...>(plan, last, rows, k, v, mask, chain, where)
      .run(check, ranks, dk, dv, scratch, tag);
}

}  // namespace detail
HEED_ARCH_END
