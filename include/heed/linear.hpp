/// The linear family: attention in time and memory linear in the length.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/ops/linear/abc.hpp>
#include <heed/ops/linear/agent_backward.hpp>
#include <heed/ops/linear/agent_bias.hpp>
#include <heed/ops/linear/agent_depthwise.hpp>
#include <heed/ops/linear/agent_forward.hpp>
#include <heed/ops/linear/agent_pooling.hpp>
#include <heed/ops/linear/efficient.hpp>
#include <heed/ops/linear/fastmax.hpp>
#include <heed/ops/linear/gated_backward.hpp>
#include <heed/ops/linear/gated_forward.hpp>
#include <heed/ops/linear/gated_slot_backward.hpp>
#include <heed/ops/linear/gated_slot_forward.hpp>
#include <heed/ops/linear/gated_slot_step.hpp>
#include <heed/ops/linear/gated_step.hpp>
#include <heed/ops/linear/lightning.hpp>
#include <heed/ops/linear/linear_backward.hpp>
#include <heed/ops/linear/linear_forward.hpp>
#include <heed/ops/linear/linear_step.hpp>
#include <heed/ops/linear/slopes.hpp>
#include <heed/ops/linear/slot_gates.hpp>
#include <heed/ops/linear/ssd.hpp>
