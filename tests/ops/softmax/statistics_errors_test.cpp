#include "ops/softmax/statistics.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

using namespace softmax_test;
using support::with_extents;

namespace {

/// Legal calls, to be spoiled in one place.
struct call {
  call() : p({1, 4, 2, 10, 20, 8, 1}), q(p.q), k(p.k), lse(p.lse), rows(p.rows) {
    weights = p.weights;
    top_weights = p.top_weights;
    top_keys = p.top_keys;
    row = {.entropy = p.entropy, .max = p.max, .argmax = p.argmax, .distance = p.distance};
    column = {.sum = p.column_sum, .max = p.column_max, .last_row = p.last_row, .row_weights = p.row_weights};
  }

  statistics_problem<float> p;
  view<const float, 4> q, k;
  view<const float, 3> lse;
  heed::integer_list rows;
  view<float, 4> weights, top_weights;
  view<std::int32_t, 4> top_keys;
  softmax_row_request<float> row;
  softmax_column_request<float> column;
  softmax_statistics_options<float> options;
};

struct operation {
  const char* name;
  void (*run)(call&);
};
const operation weights_of{"softmax_weights",
                           [](call& c) { heed::softmax_weights(c.q, c.k, c.lse, c.rows, c.weights, c.options); }};
const operation top_keys_of{"softmax_top_keys", [](call& c) {
                              heed::softmax_top_keys(c.q, c.k, c.lse, {}, c.top_weights, c.top_keys, c.options);
                            }};
const operation rows_of{"softmax_row_statistics",
                        [](call& c) { heed::softmax_row_statistics(c.q, c.k, c.lse, c.row, c.options); }};
const operation columns_of{"softmax_column_statistics",
                           [](call& c) { heed::softmax_column_statistics(c.q, c.k, c.lse, c.column, c.options); }};

/// The call must throw, say who it is and all of `parts`, and write nothing.
void refuses(const operation& what, const std::function<void(call&)>& spoil, const std::vector<std::string>& parts) {
  call c;
  const statistics_problem<float> before = c.p;
  spoil(c);
  support::check_refusal(what.name, parts, [&] { what.run(c); });
  CHECK(same_statistics(c.p, before));
}

void all_refuse(const std::function<void(call&)>& spoil, const std::vector<std::string>& parts) {
  for (const operation& what : {weights_of, top_keys_of, rows_of, columns_of}) refuses(what, spoil, parts);
}

}  // namespace

TEST_CASE("legal statistics calls are not refused") {
  call c;
  heed::softmax_forward(c.p.q, c.p.k, c.p.v, c.p.out, {.lse = c.p.lse});
  for (const operation& what : {weights_of, top_keys_of, rows_of, columns_of}) CHECK_NOTHROW(what.run(c));
  CHECK(all_finite(c.p.weights));
  CHECK(all_finite(c.p.entropy));
  CHECK(all_finite(c.p.column_sum));
}

TEST_CASE("statistics refuse queries, keys and lse that do not fit") {
  all_refuse([](call& c) { c.k = with_extents(c.k, {1, 3, 20, 8}); }, {"k.extent(1) (G)", "a divisor of H = 4"});
  all_refuse([](call& c) { c.k = with_extents(c.k, {1, 2, 20, 7}); }, {"k.extent(3)", "8 (D, as q)", "got 7"});
  all_refuse([](call& c) { c.k = with_extents(c.k, {2, 2, 10, 8}); }, {"k.extent(0)", "1 (B, as q)", "got 2"});
  all_refuse([](call& c) { c.lse = with_extents(c.lse, {1, 4, 9}); }, {"lse.extent(2)", "10 (as q)", "got 9"});
  all_refuse([](call& c) { c.lse = {}; }, {"lse.extent(0)"});
  all_refuse([](call& c) { c.lse = view<const float, 3>(nullptr, {1, 4, 10}); }, {"lse", "a null pointer"});
  all_refuse([](call& c) { c.q = view<const float, 4>(nullptr, {1, 4, 10, 8}); }, {"q", "a null pointer"});
  all_refuse([](call& c) { c.q = c.k = view<const float, 4>(c.q.data(), {1, 4, 10, 0}); }, {"q.extent(3) (D)"});
}

TEST_CASE("statistics refuse options out of range") {
  all_refuse([](call& c) { c.options.scale = HUGE_VAL; }, {"options.scale", "a finite number"});
  all_refuse([](call& c) { c.options.softcap = -1; }, {"options.softcap"});
  all_refuse([](call& c) { c.options.window_left = -2; }, {"options.window_left"});
  all_refuse([](call& c) { c.options.q_offset = index_t(1) << 40; }, {"options.q_offset"});
  all_refuse([](call& c) { c.options.bias = view<const float, 4>(c.q.data(), {1, 1, 9, 1}); },
             {"options.bias.extent(2)", "1 or 10"});
  static constexpr std::array<std::int32_t, 3> cu_q{0, 4, 10}, cu_k{0, 9, 21};
  all_refuse([](call& c) { c.options.cu_seqlens_q = cu_q; }, {"options.cu_seqlens_k", "offsets"});
  all_refuse(
      [](call& c) {
        c.options.cu_seqlens_q = cu_q;
        c.options.cu_seqlens_k = cu_k;
      },
      {"options.cu_seqlens_k", "at most 20 rows", "got 21"});
}

TEST_CASE("softmax_weights refuses rows that are none, and weights that do not fit") {
  static constexpr std::array<std::int64_t, 3> low{0, -1, 3}, high{0, 9, 10}, unowned{0, 8, 1};
  static constexpr std::array<std::int32_t, 3> cu_q{0, 4, 8}, cu_k{0, 9, 20};
  refuses(weights_of, [](call& c) { c.rows = low; }, {"rows", "[0, 10)", "got -1"});
  refuses(weights_of, [](call& c) { c.rows = high; }, {"rows", "[0, 10)", "got 10"});
  refuses(weights_of,
          [](call& c) {
            c.rows = unowned;
            c.options.cu_seqlens_q = cu_q;
            c.options.cu_seqlens_k = cu_k;
          },
          {"rows", "[0, 8)", "got 8"});
  refuses(weights_of, [](call& c) { c.weights = c.weights.slice(2, 0, 2); }, {"weights.extent(2)", "(R, as rows)"});
  refuses(weights_of, [](call& c) { c.rows = {}; }, {"weights.extent(2)", "10 (N, as q)"});
  refuses(weights_of, [](call& c) { c.weights = c.weights.slice(3, 0, 19); }, {"weights.extent(3)", "20 (M, as k)"});
  refuses(weights_of,
          [](call& c) {
            static constexpr std::array<std::int32_t, 2> two{0, 1};
            c.rows = two;
            c.weights = view<float, 4>(c.p.q.data(), {1, 4, 2, 20});
          },
          {"weights: expected no overlap"});
  refuses(weights_of, [](call& c) { c.weights = view<float, 4>(); }, {"weights.extent(0)"});
}

TEST_CASE("softmax_top_keys refuses outputs that do not fit or overlap") {
  refuses(top_keys_of, [](call& c) { c.top_keys = c.top_keys.slice(3, 0, 4); },
          {"indices.extent(3)", "5 (K, as weights)"});
  refuses(top_keys_of, [](call& c) { c.top_weights = c.top_weights.slice(2, 0, 4); },
          {"weights.extent(2)", "10 (N, as q)"});
  refuses(top_keys_of,
          [](call& c) {
            c.top_keys = view<std::int32_t, 4>(reinterpret_cast<std::int32_t*>(c.p.top_weights.data()), {1, 4, 10, 5});
          },
          {"indices: expected no overlap"});
  refuses(top_keys_of, [](call& c) { c.top_weights = view<float, 4>(c.p.q.data(), {1, 4, 10, 5}); },
          {"weights: expected no overlap"});
}

TEST_CASE("softmax_row_statistics refuses outputs that do not fit or overlap") {
  refuses(rows_of, [](call& c) { c.row.entropy = c.row.entropy.slice(2, 0, 9); },
          {"request.entropy.extent(2)", "10 (as q)"});
  refuses(rows_of, [](call& c) { c.row.argmax = c.row.argmax.slice(1, 0, 2); },
          {"request.argmax.extent(1)", "4 (as q)"});
  refuses(rows_of, [](call& c) { c.row.max = c.row.entropy; }, {"request.max: expected no overlap"});
  refuses(rows_of, [](call& c) { c.row.distance = view<float, 3>(c.p.lse.data(), {1, 4, 10}); },
          {"request.distance: expected no overlap"});
  refuses(rows_of, [](call& c) { c.row.entropy = view<float, 3>(c.p.entropy.data(), {1, 4, 10}, {0, 0, 1}); },
          {"request.entropy", "no broadcast axis"});
}

TEST_CASE("softmax_column_statistics refuses outputs and row weights that do not fit or overlap") {
  refuses(columns_of, [](call& c) { c.column.sum = c.column.sum.slice(1, 0, 1); },
          {"request.sum.extent(1)", "H = 4 or G = 2", "got 1"});
  refuses(columns_of, [](call& c) { c.column.max = c.column.max.slice(2, 0, 19); },
          {"request.max.extent(2)", "20 (M, as k)"});
  refuses(columns_of, [](call& c) { c.column.row_weights = with_extents(c.column.row_weights, {1, 2, 10}); },
          {"request.row_weights.extent(1)", "4 (as q)"});
  refuses(columns_of, [](call& c) { c.column.threshold = -0.5; }, {"request.threshold", "at least 0", "got -0.5"});
  refuses(columns_of, [](call& c) { c.column.threshold = HUGE_VAL; }, {"request.threshold", "a finite number"});
  refuses(columns_of, [](call& c) { c.column.max = c.column.sum; }, {"request.max: expected no overlap"});
  refuses(columns_of,
          [](call& c) {
            c.column.last_row =
                view<std::int32_t, 3>(reinterpret_cast<std::int32_t*>(c.p.column_max.data()), {1, 2, 20});
          },
          {"request.last_row: expected no overlap"});
  refuses(columns_of, [](call& c) { c.column.sum = view<float, 3>(c.p.k.data(), {1, 2, 20}); },
          {"request.sum: expected no overlap"});
}
