/// Tokens that form an image.
#pragma once

#include <heed/config.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// Tokens of an image, row by row: token y * width + x stands at (y, x).
struct token_grid {
  index_t height = 1;
  index_t width = 1;
};

HEED_END
