/// Attention within the windows of an image.
#pragma once

#include <heed/kernel/swin_checks.hpp>
#include <heed/kernel/swin_forward_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// swin_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void swin_forward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<S, 4> out,
                     const swin_options<S>& options) {
  const checker check("swin_forward");
  check_queries(check, q, out, options.lse, {}, options.scale, 0);
  check_keys(check, q, k, v, out, "k", "v");
  const swin_call<S> call = checked_swin_call(check, q, k, v, options);
  check_aliasing(check, out, "out", q, k, v, options.table, options.k_pad, options.v_pad);
  check_aliasing(check, options.lse, "options.lse", q, k, v, options.table, options.k_pad, options.v_pad, out);
  swin_forward_run<A, S>(call).run(check, out, options.lse, options.scratch, resolve(options.executor));
}

}  // namespace detail

HEED_ARCH_END
