/// Linear maps of rows, y = x W, with W [I,O], and their gradients.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/kernel/efficient_rows.hpp>
#include <heed/kernel/gradient_rows.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// Rows that a task works on together.
struct projected_rows {
  index_t batch, first, count;
};

template <class A, class S>
class projection_run {
 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;

  projection_run(const view<const S, 3>& x, const view<const S, 2>& w) noexcept
      : x_(x),
        w_(w),
        inputs_(w.extent(0)),
        outputs_(w.extent(1)),
        blocks_of_entry_((x.extent(1) + efficient_block - 1) / efficient_block) {}

  index_t forward_bytes(const executor_ref& where) const noexcept {
    scratch_cursor shared(nullptr);
    take_rows<T>(shared, inputs_, outputs_);
    return scratch_total(worker_bytes(), where.concurrency) + round_up(shared.used(), cache_line);
  }
  index_t backward_bytes(const executor_ref& where) const noexcept {
    scratch_cursor shared(nullptr);
    gradient_memory(shared, *this);
    return scratch_total(worker_bytes(), where.concurrency) + round_up(shared.used(), cache_line);
  }

  /// emit(rows, y) for all rows, y [count] in whole vectors, 0 beyond the outputs.
  template <class Emit>
  void forward(const checker& check, scratch_view scratch, const executor_ref& where, const Emit& emit) const {
    const scratch_block memory(check, scratch, forward_bytes(where));
    scratch_cursor shared(memory.data() + worker_bytes() * where.concurrency);
    const row_span<const T> matrix = load_matrix(take_rows<T>(shared, inputs_, outputs_));
    auto task = [&](index_t number, index_t worker) {
      scratch_cursor cursor(memory.data() + worker * worker_bytes());
      workspace space(cursor, *this);
      const projected_rows rows = block(number);
      emit(rows, project(space, rows, matrix));
    };
    for_each_task(where, blocks(), task);
  }

  /// From gradients by y: of x, of W and, where they are given, of a vector of O numbers.
  /// differentiate(rows, y, dy, by_vector): makes dy [count], in whole vectors and 0 beyond the outputs, and adds to
  /// by_vector [O]. `project`: y is wanted.
  template <class Differentiate>
  void backward(const checker& check, scratch_view scratch, const executor_ref& where, const view<S, 3>& dx,
                const view<S, 2>& dw, const view<T, 1>& dvector, bool wants_y,
                const Differentiate& differentiate) const {
    const scratch_block memory(check, scratch, backward_bytes(where));
    scratch_cursor shared(memory.data() + worker_bytes() * where.concurrency);
    gradient_memory common(shared, *this);
    const row_span<const T> matrix = load_matrix(common.matrix);
    transpose_context<T, A>(matrix, inputs_, outputs_, common.transposed);
    auto task = [&](index_t part, index_t worker) {
      scratch_cursor cursor(memory.data() + worker * worker_bytes());
      workspace space(cursor, *this);
      const row_span<T> sums = common.sums.from(part * (inputs_ + 1));
      clear_rows<T, A>(sums, inputs_ + 1, outputs_);
      for (index_t i = blocks() * part / parts(); i < blocks() * (part + 1) / parts(); ++i) {
        const projected_rows rows = block(i);
        if (wants_y) project(space, rows, matrix);
        differentiate(rows, space.y, space.dy, sums[inputs_]);
        const row_span<const T> x = rows_for_scalars<T, A>(rows_at(rows), 0, rows.count, inputs_, space.x);
        add_context<T, A>(x, space.dy, rows.count, inputs_, outputs_, sums);
        multiply_rows<T, A>(space.dy, rows.count, common.transposed, outputs_, inputs_, space.x);
        store_rows<A>(row_span<const T>(space.x), row_span<S>{&dx(rows.batch, rows.first, 0), dx.stride(1)}, rows.count,
                      inputs_);
      }
    };
    for_each_task(where, parts(), task);
    const index_t step = (inputs_ + 1) * common.sums.stride;
    auto add = [&](index_t i, index_t) {
      if (i < inputs_)
        sum_rows<T, A>(common.sums[i], step, parts(), false, &dw(i, 0), outputs_);
      else if (dvector)
        for (index_t o = 0; o < outputs_; ++o) {
          T sum(0);
          for (index_t part = 0; part < parts(); ++part) sum += common.sums[i][part * step + o];
          dvector[o] = sum;
        }
    };
    for_each_task(where, inputs_ + 1, add);
  }

 private:
  static constexpr index_t most_parts = 16, least_blocks = 4;

  index_t blocks() const noexcept { return x_.extent(0) * blocks_of_entry_; }
  /// Of the sums of a gradient: by shapes alone.
  index_t parts() const noexcept {
    return std::clamp<index_t>((blocks() + least_blocks - 1) / least_blocks, 1, most_parts);
  }
  projected_rows block(index_t number) const noexcept {
    const index_t first = number % blocks_of_entry_ * efficient_block;
    return {number / blocks_of_entry_, first, std::min(efficient_block, x_.extent(1) - first)};
  }
  row_span<const S> rows_at(const projected_rows& rows) const noexcept {
    return {&x_(rows.batch, rows.first, 0), x_.stride(1)};
  }

  struct workspace {
    workspace(scratch_cursor& memory, const projection_run& call) noexcept
        : x(take_rows<T>(memory, efficient_block, call.inputs_)),
          y(take_rows<T>(memory, efficient_block, call.outputs_)),
          dy(take_rows<T>(memory, efficient_block, call.outputs_)) {}
    row_span<T> x, y, dy;
  };
  struct gradient_memory {
    gradient_memory(scratch_cursor& memory, const projection_run& call) noexcept
        : matrix(take_rows<T>(memory, call.inputs_, call.outputs_)),
          transposed(take_rows<T>(memory, call.outputs_, call.inputs_)),
          sums(take_rows<T>(memory, call.parts() * (call.inputs_ + 1), call.outputs_)) {}
    row_span<T> matrix, transposed;
    row_span<T> sums;  // of each part: [I] rows by W, and one by the vector
  };

  index_t worker_bytes() const noexcept {
    scratch_cursor count(nullptr);
    workspace(count, *this);
    return round_up(count.used(), cache_line);
  }

  row_span<const T> load_matrix(row_span<T> copy) const noexcept {
    return rows_for_vectors<T, A>(row_span<const S>{w_.data(), w_.stride(0)}, 0, inputs_, outputs_, copy);
  }

  row_span<T> project(workspace& space, const projected_rows& rows, row_span<const T> matrix) const noexcept {
    const row_span<const T> x = rows_for_scalars<T, A>(rows_at(rows), 0, rows.count, inputs_, space.x);
    multiply_rows<T, A>(x, rows.count, matrix, inputs_, outputs_, space.y);
    return space.y;
  }

  view<const S, 3> x_;
  view<const S, 2> w_;
  index_t inputs_, outputs_, blocks_of_entry_;
};

}  // namespace detail
HEED_ARCH_END
