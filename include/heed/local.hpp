/// The local family: attention to what is near, in images and in channels.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/ops/local/channel_backward.hpp>
#include <heed/ops/local/channel_forward.hpp>
#include <heed/ops/local/swin_backward.hpp>
#include <heed/ops/local/swin_forward.hpp>
