/// All of heed but the interop headers, which need libraries of their own.
#pragma once

#include <heed/cache.hpp>
#include <heed/linear.hpp>
#include <heed/local.hpp>
#include <heed/rotary.hpp>
#include <heed/softmax.hpp>
#include <heed/version.hpp>
