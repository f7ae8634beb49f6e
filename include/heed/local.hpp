/// The local family: attention within windows of tokens.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/mod/neighborhood.hpp>
#include <heed/ops/local/neighborhood_backward.hpp>
#include <heed/ops/local/neighborhood_forward.hpp>
