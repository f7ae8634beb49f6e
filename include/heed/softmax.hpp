/// The softmax family: everything of ops/softmax, with the mods it takes.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/mod.hpp>
#include <heed/ops/softmax/backward.hpp>
#include <heed/ops/softmax/column_statistics.hpp>
#include <heed/ops/softmax/forward.hpp>
#include <heed/ops/softmax/merge.hpp>
#include <heed/ops/softmax/row_statistics.hpp>
#include <heed/ops/softmax/segments.hpp>
#include <heed/ops/softmax/segments_backward.hpp>
#include <heed/ops/softmax/step.hpp>
#include <heed/ops/softmax/top_keys.hpp>
#include <heed/ops/softmax/weights.hpp>
