// Ring attention over the ranks of an MPI program: the same bits as over as many threads of one process, which agree
// with the definition.
#include "ops/ring/ring.hpp"
#include "mpi/ranks.hpp"
#include "support/catch.hpp"
#include "support/compare.hpp"
#include "support/refusal.hpp"

#include <stdexcept>
#include <string>

using namespace ring_test;
using Catch::Matchers::ContainsSubstring;

namespace {

using S = heed::bfloat16;  // so keys and their gradients travel in two types
using problem = backward_problem<S>;
using options = heed::ring_backward_options<S>;

/// Forward and backward of what this rank has.
void solve(heed::mpi_transport& ranks, shard<S>& own, const options& o) {
  auto f = forward_options(o);
  f.lse = own.lse;
  heed::ring_forward(ranks, own.q, own.k, own.v, own.out, f);
  heed::ring_backward(ranks, own.q, own.k, own.v, own.out, own.lse, own.dout, own.dq, own.dk, own.dv, o);
}

template <class T, int Rank>
bool same_rows(const heed::tensor<T, Rank>& own, const heed::tensor<T, Rank>& whole, const token_layout& layout,
               int rank) {
  const view<const T, Rank> rows = own.all(), all = whole.all();
  bool same = rows.extent(2) == layout.count(rank);
  for (index_t a = 0; same && a < rows.extent(2); ++a) {
    const index_t token = layout.token(rank, a);
    same = support::same_bits<T, Rank>(rows.slice(2, a, a + 1), all.slice(2, token, token + 1));
  }
  return same;
}

/// One thread, which fails at a task.
struct failing_executor {
  index_t tasks_before;

  index_t concurrency() const { return 1; }
  template <class F>
  void for_each_task(index_t n, const F& f) {
    for (index_t task = 0; task < n; ++task) {
      if (tasks_before-- == 0) throw std::runtime_error("planned");
      f(task, 0);
    }
  }
};

}  // namespace

TEST_CASE("mpi: a ring over processes gives the bits of a ring over threads") {
  // Pieces, so that shards are more than one message of MPI each.
  heed::mpi_transport ranks(MPI_COMM_WORLD, mpi::patient({.piece_bytes = 512}));
  const int P = ranks.size(), r = ranks.rank();
  for (const deal how : all_deals) {
    CAPTURE(P, r, int(how));
    problem whole({1, 4, 2, 37, 53, 6, 9}, 3);
    ring_run run{deal_out(how, 37, P), deal_out(how, 53, P)};
    const auto sink = support::normal_tensor<float, 1>({4}, whole.random);
    softmax_backward_options<S> causal{.sink = sink, .dlse = whole.dlse, .window_right = 0};
    CHECK(ring_error(whole, run, causal, softmax_test::arguments_of<S>(causal)) <= 1);

    const token_layout &ql = run.q.layout, &kl = run.kv.layout;
    shard<S> own(whole, ql, kl, r);
    options o = rank_options(causal);
    o.layout = ql;
    o.kv_layout = kl;
    o.dlse = own.dlse;
    o.dsink = own.dsink;
    solve(ranks, own, o);
    CHECK(same_rows(own.out, whole.out, ql, r));
    CHECK(same_rows(own.lse, whole.lse, ql, r));
    CHECK(same_rows(own.dq, whole.dq, ql, r));
    CHECK(same_rows(own.dk, whole.dk, kl, r));
    CHECK(same_rows(own.dv, whole.dv, kl, r));
    // MPI adds up in an order of its own.
    for (index_t h = 0; h < 4; ++h) CHECK(own.dsink(h) == Catch::Approx(whole.dsink(h)).epsilon(1e-5));
  }
}

TEST_CASE("mpi: arguments that one rank is refused, or that differ, are refused on all, and the ranks go on") {
  heed::mpi_transport ranks(MPI_COMM_WORLD, mpi::patient());
  const int P = ranks.size(), r = ranks.rank();
  if (P < 2) return;
  const auto layout = heed::striped_layout(3 * P, P);
  problem whole({1, 2, 2, 3 * P, 3 * P, 4, 4});
  shard<S> own(whole, layout, layout, r);
  options fitting;
  fitting.layout = layout;
  options bad = fitting, other = fitting;
  bad.window_left = -2;
  other.scale = 2.0;
  CHECK_THAT(support::message_of([&] { solve(ranks, own, r == P - 1 ? bad : fitting); }),
             ContainsSubstring(r == P - 1 ? "options.window_left" : "some on rank " + std::to_string(P - 1)));
  CHECK_THAT(support::message_of([&] { solve(ranks, own, r == 0 ? other : fitting); }),
             ContainsSubstring("options.scale: expected the same on all ranks"));
  solve(ranks, own, fitting);
}

TEST_CASE("mpi: a rank that fails in a ring ends it for all") {
  int P = 0, r = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &P);
  MPI_Comm_rank(MPI_COMM_WORLD, &r);
  if (P < 2) return;
  // At once, while others compute, and in the gradients.
  for (const index_t tasks : {0, 11, 60}) {
    CAPTURE(P, r, tasks);
    const auto layout = heed::striped_layout(400 * P, P);
    problem whole({1, 2, 2, 400 * P, 400 * P, 16, 16});
    shard<S> own(whole, layout, layout, r);
    failing_executor failing{tasks};
    std::string said;
    try {
      heed::mpi_transport ranks(MPI_COMM_WORLD, mpi::patient());
      options o;
      o.layout = layout;
      o.executor = r == P - 1 ? heed::executor(failing) : heed::serial();
      solve(ranks, own, o);
    } catch (const heed::transport_error& error) {
      said = error.what();
      CHECK(error.peer() == P - 1);
    } catch (const std::runtime_error& error) {
      said = error.what();
    }
    CHECK_THAT(said, ContainsSubstring(r == P - 1 ? "planned" : "that rank failed"));
  }
}
