#include "support/arch.hpp"
#include "ops/ring/ring.hpp"
#include "support/catch.hpp"

#include <heed/mod/masks.hpp>

using namespace ring_test;

TEMPLATE_TEST_CASE("rows stand where they should on every instruction set", "", float, double) {
  using S = TestType;
  support::for_each_distinct_arch([](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    for (const deal how : all_deals) {
      softmax_test::problem<S> p({1, 2, 1, 70, 90, 20, 9});
      const owned_layout q = deal_out(how, 70, 3), kv = deal_out(how, 90, 3);
      const auto tilted = [](auto s, auto at) { return s - 0.05f * heed::to_real(s, at.q - at.kv); };
      heed::in_process_group group(3, 60);
      group.run([&](heed::in_process_transport& ranks) {
        const int r = ranks.rank();
        softmax_test::problem<S> own({1, 2, 1, q.layout.count(r), kv.layout.count(r), 20, 9});
        heed::to_layout(p.q, own.q, q.layout, r);
        heed::to_layout(p.k, own.k, kv.layout, r);
        heed::to_layout(p.v, own.v, kv.layout, r);
        const heed::ring_options<S> o{
            .layout = q.layout, .kv_layout = kv.layout, .lse = own.lse, .executor = heed::serial()};
        heed::detail::ring_forward_on<A, S>(ranks, own.q, own.k, own.v, own.out, o, heed::causal{}, tilted);
        heed::from_layout(own.out, p.out, q.layout, r);
        heed::from_layout(own.lse, p.lse, q.layout, r);
      });
      reference::softmax_arguments arguments;
      softmax_test::add_mod(arguments, heed::causal{});
      softmax_test::add_mod(arguments, tilted);
      CAPTURE(int(how));
      CHECK(softmax_test::worst_error(p, reference::softmax<S>(p.q, p.k, p.v, arguments)) <= 1);
    }
  });
}
