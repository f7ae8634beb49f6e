/// softmax_step: time, bytes of keys and values a second, and the share of the rate at which memory is read beside every
/// sample.
///
///     bench_softmax_step [--benchmark_filter=REGEX] [--benchmark_out=FILE --benchmark_out_format=json]
///
/// Names: softmax/step/<rows>/<layout>/B/H/M/D/threads, with H / 4 kv heads. Bytes: those of keys and values as they are
/// stored, scales included, once.
#include <heed/cache.hpp>
#include <heed/softmax.hpp>

#include "support/samples.hpp"

#include <string>

namespace {

using bench::shape;
using heed::index_t;

heed::tensor<float, 4> normal(const index_t (&extents)[4], unsigned seed) {
  heed::tensor<float, 4> tensor(extents);
  bench::fill_normal(tensor, seed);
  return tensor;
}

/// Bytes of a row of `features` elements.
template <class Rows>
index_t row_bytes(index_t features) {
  if constexpr (heed::element<Rows>)
    return features * index_t(sizeof(Rows));
  else
    return heed::detail::codec<Rows>::bytes(features) + index_t(sizeof(float));
}

template <class Rows, class MakeCache>
void add(const std::string& rows, const std::string& layout, const shape& s, const MakeCache& make) {
  bench::add(bench::name_of({"softmax/step", rows, layout}), s, [=](benchmark::State& state, int threads) {
    auto cache = make(s);
    // A piece at a time: the rows of all tokens in float would be as large as the largest cache.
    constexpr index_t piece = 1024;
    const auto k = normal({s.batch, s.kv_heads, piece, s.d}, 8), v = normal({s.batch, s.kv_heads, piece, s.d}, 9);
    for (index_t done = 0; done < s.n; done += piece) cache.append(k, v);
    const auto q = normal({s.batch, s.heads, 1, s.d}, 7);
    heed::tensor<float, 4> out({s.batch, s.heads, 1, s.d});
    const double bytes = 2.0 * static_cast<double>(s.batch * s.kv_heads * s.n * row_bytes<Rows>(s.d));
    // The same amount of memory, read from front to back.
    const heed::tensor<float, 1> stream({static_cast<index_t>(bytes / sizeof(float))});
    bench::sample(
        state, threads, bytes, "gbytes",
        [&](double duration) {
          return bench::read_peak(stream.data(), stream.extent(0) * index_t(sizeof(float)), threads, duration);
        },
        [&] { heed::softmax_step(q, cache, out, {.executor = heed::openmp(threads)}); });
  });
}

template <class Rows>
void add_contiguous(const std::string& rows, const shape& s) {
  add<Rows>(rows, "contiguous", s,
            [](const shape& t) { return heed::contiguous_cache<Rows>({t.batch, t.kv_heads, t.n, t.d}); });
}

template <class Rows>
void add_paged(const std::string& rows, const shape& s, index_t page_size) {
  std::string layout = "page";
  layout += std::to_string(page_size);
  add<Rows>(rows, layout, s, [page_size](const shape& t) {
    return heed::paged_cache<Rows>({t.batch, t.kv_heads, t.batch * t.n / page_size, page_size, t.d});
  });
}

}  // namespace

int main(int argc, char** argv) {
  for (const index_t keys : {16384, 65536}) {
    const shape s{1, 32, 8, keys, 128};
    add_contiguous<float>("float32", s);
    add_contiguous<heed::bfloat16>("bfloat16", s);
    add_contiguous<heed::float16>("float16", s);
    add_contiguous<heed::int8_rows>("int8", s);
    add_contiguous<heed::int4_rows>("int4", s);
  }
  for (const index_t page_size : {16, 64}) {
    add_paged<float>("float32", {1, 32, 8, 16384, 128}, page_size);
    add_paged<heed::bfloat16>("bfloat16", {1, 32, 8, 16384, 128}, page_size);
  }
  return bench::run_all(argc, argv);
}
