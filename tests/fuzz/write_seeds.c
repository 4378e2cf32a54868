/* Writes the seeds of the fuzz targets into a folder: a small decoder of every kind, then 8 zero bytes. */
#include <stdio.h>
#include <stdlib.h>

#include "tiny_weights.h"

int main(int argc, char **argv) {
    static const char *const ffns[] = {"relu", "gated_gelu_tanh", "silu", "gated_silu"};
    if (argc != 2) return 2;
    for (int i = 0; i < 8; i++) {
        tiny_options o = tiny_defaults();
        o.vocab_size = 5, o.d_model = 2, o.d_ff = 3, o.n_layers = 1, o.n_heads = 1, o.d_head = 2;
        o.is_int8 = i & 1, o.is_tied = i & 2, o.bias_per_layer = i & 4;
        o.head_rescore = o.is_int8 ? 2 : 0;
        o.ffn = ffns[i / 2];
        o.layer_norm = o.linear_bias = i >= 4;
        o.position_table = i == 5 || i == 6;
        o.post_norm = o.embedding_norm = o.final_logits_bias = i == 5;
        if (o.position_table) o.bias_per_layer = false;
        size_t size;
        uint8_t *file = tiny_weights(&o, &size);
        char path[4096];
        snprintf(path, sizeof path, "%s/%s_%d", argv[1], o.ffn, i);
        FILE *out = fopen(path, "wb");
        if (!out || fwrite(file, 1, size, out) != size || fwrite("\0\0\0\0\0\0\0", 1, 8, out) != 8 ||
            fclose(out) != 0)
            return 1;
        free(file);
    }
    return 0;
}
