/// The local family: attention to what is near, in sequences, grids and images, and within channels.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/mod.hpp>
#include <heed/ops/local/channel_backward.hpp>
#include <heed/ops/local/channel_forward.hpp>
#include <heed/ops/local/dilated.hpp>
#include <heed/ops/local/luong_dot.hpp>
#include <heed/ops/local/luong_local.hpp>
#include <heed/ops/local/luong_mlp.hpp>
#include <heed/ops/local/luong_projection.hpp>
#include <heed/ops/local/neighborhood_backward.hpp>
#include <heed/ops/local/neighborhood_forward.hpp>
#include <heed/ops/local/swin_backward.hpp>
#include <heed/ops/local/swin_forward.hpp>
#include <heed/ops/local/window_mean.hpp>
