/// Everything that a mod can be: masks, their composition, block masks, score mods.
#pragma once

#include <heed/mod/block_mask.hpp>
#include <heed/mod/compose.hpp>
#include <heed/mod/document.hpp>
#include <heed/mod/dual.hpp>
#include <heed/mod/masks.hpp>
#include <heed/mod/neighborhood.hpp>
#include <heed/mod/parametric.hpp>
#include <heed/mod/position.hpp>
#include <heed/mod/scalar.hpp>
#include <heed/mod/score.hpp>
#include <heed/mod/table.hpp>
