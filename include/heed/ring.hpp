/// Attention over several ranks, and over keys that arrive block by block, with the mods it takes; recurrences over
/// several ranks.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/core/token_layout.hpp>
#include <heed/core/transport.hpp>
#include <heed/mod.hpp>
#include <heed/ops/ring/backward.hpp>
#include <heed/ops/ring/blockwise.hpp>
#include <heed/ops/ring/forward.hpp>
#include <heed/ops/ring/gated_linear_forward.hpp>
#include <heed/ops/ring/gated_slot_forward.hpp>
#include <heed/ops/ring/layout.hpp>
#include <heed/ops/ring/lightning_forward.hpp>
#include <heed/ops/ring/work.hpp>
