/// Rows of a source, keys or values: run by run where they are, or copied as numbers.
#pragma once

#include <heed/kernel/source.hpp>
#include <heed/kernel/tile_io.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Which rows of a source are meant.
struct keys_of {
  template <class Source>
  HEED_INLINE static auto run(const Source& source, index_t first, index_t most) noexcept {
    return source.keys(first, most);
  }
  template <class Source>
  HEED_INLINE static auto scaled_run(const Source& source, index_t first, index_t most) noexcept {
    return source.scaled_keys(first, most);
  }
  template <class T, class A, class Source>
  static void load(const Source& source, index_t first, int count, T* to, index_t pitch) noexcept {
    source.template load_keys<T, A>(first, count, to, pitch);
  }
};
struct values_of {
  template <class Source>
  HEED_INLINE static auto run(const Source& source, index_t first, index_t most) noexcept {
    return source.values(first, most);
  }
  template <class Source>
  HEED_INLINE static auto scaled_run(const Source& source, index_t first, index_t most) noexcept {
    return source.scaled_values(first, most);
  }
  template <class T, class A, class Source>
  static void load(const Source& source, index_t first, int count, T* to, index_t pitch) noexcept {
    source.template load_values<T, A>(first, count, to, pitch);
  }
};

/// Calls f(rows, count, number of the first) for the runs of rows [first, first + count).
template <class Which, class Source, class F>
HEED_INLINE void for_runs(const Source& source, index_t first, int count, F f) {
  for (int done = 0; done < count;) {
    const auto run = Which::run(source, first + done, count - done);
    f(run.rows(), static_cast<int>(run.count), done);
    done += static_cast<int>(run.count);
  }
}

/// Copies rows [first, first + count) to rows of numbers, `pitch` apart. Vectors are filled up with zeros.
template <class Which, class T, class A, class Source>
void load_rows(const Source& source, index_t first, int count, index_t features, T* to, index_t pitch) noexcept {
  if constexpr (coded_source<Source>)
    Which::template load<T, A>(source, first, count, to, pitch);
  else
    for_runs<Which>(source, first, count, [&](const auto& rows, int some, int row) {
      for (int i = 0; i < some; ++i) convert_row<T, A>(rows[i], to + (row + i) * pitch, features);
    });
}

}  // namespace detail
HEED_ARCH_END
