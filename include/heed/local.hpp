/// The local family: windows, and softmax attention to parts of the keys.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/mod.hpp>
#include <heed/ops/local/dilated.hpp>
#include <heed/ops/local/luong_dot.hpp>
#include <heed/ops/local/luong_local.hpp>
#include <heed/ops/local/luong_mlp.hpp>
#include <heed/ops/local/luong_projection.hpp>
#include <heed/ops/local/window_mean.hpp>
