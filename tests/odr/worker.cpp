// Kernels for one machine; compiled several times. Thin on purpose: whatever else it used would be shared.
#include "worker.hpp"

#include <heed/core/error.hpp>
#include <heed/core/executor.hpp>

#define HEED_ODR_STRING_(name) #name
#define HEED_ODR_STRING(name) HEED_ODR_STRING_(name)

namespace odr::HEED_ODR_MACHINE {

const char* arch() { return HEED_ODR_STRING(HEED_ARCH); }

void attend(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v,
            heed::view<float, 4> out) {
  const heed::detail::checker check("odr");
  check.tensor(q, "q");
  check.tensor(k, "k");
  check.tensor(v, "v");
  check.extent(k, "k", 3, q.extent(3), "D, the extent of q");
  check.output(out, "out");
}

}  // namespace odr::HEED_ODR_MACHINE
