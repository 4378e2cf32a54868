/*
 * NEON with the dot product extension: Cortex-A55, A76 and later (Raspberry Pi 5, phones since 2018), Apple
 * since A13, Neoverse N1.
 *
 * The GEMM is gemm_tiles.h with the sdot of neon_sdot.h. The float operations are those of the scalar set,
 * which AArch64 compilers turn into NEON.
 *
 * Not measured: the tests run under emulation, whose times say nothing.
 */
#include "neon_sdot.h"

#include "gemm_tiles.h"

void es2s_kernels_init_neon_dotprod(es2s_kernels *k) {
    k->isa = "neon_dotprod";
    k->gemm_qd8_qc8w = gemm_qd8_qc8w_tiles;
}
