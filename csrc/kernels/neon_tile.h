/* What the tiles of gemm_tiles.h have in common on NEON. */
#ifndef ES2S_NEON_TILE_H
#define ES2S_NEON_TILE_H

#include <arm_neon.h>

#include "gemm.h"
#include "kernels.h"

enum { STEP = 16, A_OFFSET = 0 };
typedef int32x4_t sums_i32;

#endif
