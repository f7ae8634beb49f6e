/// The cache family: where keys and values of generated tokens are kept.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/ops/cache/contiguous.hpp>
#include <heed/ops/cache/paged.hpp>
#include <heed/ops/cache/paged_view.hpp>
#include <heed/ops/cache/ring.hpp>
