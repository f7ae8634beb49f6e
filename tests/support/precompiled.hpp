/// What nearly every test file begins with, for tests/CMakeLists.txt to compile once. Nobody includes it.
#pragma once

#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/compare.hpp"
#include "support/grid.hpp"
#include "support/guarded.hpp"
#include "support/random.hpp"
#include "support/refusal.hpp"
#include "support/shuffling_executor.hpp"

#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/tensor.hpp>
#include <heed/simd/arch.hpp>
#include <heed/simd/pack.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>
