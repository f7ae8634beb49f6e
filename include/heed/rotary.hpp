/// The position family: rotary positions.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/ops/position/rotary.hpp>
