/// The local family: windows, and softmax attention to parts of the keys.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/mod.hpp>
#include <heed/ops/local/dilated.hpp>
#include <heed/ops/local/window_mean.hpp>
