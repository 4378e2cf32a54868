"""The encoder in plain numpy, straight from `encoder.weights`: the oracle of the native encoder's tests."""

from collections.abc import Sequence

import numpy as np

from edge_s2s.weights import Weights

from .reference_stack import Floats, ReferenceStack


class ReferenceEncoder(ReferenceStack):
    """Reads a source with `weights`, embedded by a table of the decoder's weights."""

    def __init__(self, weights: Weights, decoder: Weights):
        super().__init__(weights)
        self.decoder = decoder

    def encode(self, token_ids: Sequence[int]) -> tuple[Floats, Floats]:
        """Cross K/V [n_decoder_layers, 2, n_heads, n, d_head] and last hidden states [n, d_model]."""
        x = self._embed(token_ids)
        for layer in range(int(self.keys["n_layers"])):
            x = self._residual(x, self._self_attention, layer, "self_attn_norm")
            x = self._residual(x, self._feed_forward, layer, "ffn_norm")
        if self.keys["final_norm"]:
            x = self._norm(x, "final_norm")
        keys = self.decoder.keys
        n_heads, d_head = int(keys["n_heads"]), int(keys["d_head"])
        layers = [
            self._linear(x, f"decoder_layers.{i}.cross_attn.kv").reshape(len(x), 2, n_heads, d_head)
            for i in range(int(keys["n_layers"]))
        ]
        return np.stack(layers).transpose(0, 2, 3, 1, 4), x

    def _embed(self, token_ids: Sequence[int]) -> Floats:
        name = "encoder_embedding" if self.decoder.keys["source_vocab_size"] else "embedding"
        rows = self.decoder.tensors[f"{name}.weight"][list(token_ids)].astype(np.float32)
        if self.decoder.keys["weights_dtype"] == "int8":
            rows = rows * self.decoder.tensors[f"{name}.weight_scale"][list(token_ids), None]
        x: Floats = rows * np.float32(self.keys["embedding_scale"])
        if self.keys["position"] == "table":
            x = x + self._floats("position_embedding.weight")[: len(token_ids)]
        return self._norm(x, "embedding_norm") if self.keys["embedding_norm"] else x

    def _self_attention(self, layer: int, x: Floats) -> Floats:
        q, k, v = np.split(self._linear(x, f"layers.{layer}.self_attn.qkv"), 3, axis=-1)
        keys, values = (y.reshape(len(x), self.n_heads, self.d_head).swapaxes(0, 1) for y in (k, v))
        mixed = self._attend(q, keys, values, self._position_bias(layer, len(x)))
        return self._linear(mixed, f"layers.{layer}.self_attn.o")

    def _position_bias(self, layer: int, n: int) -> Floats | float:
        """[n_heads, n queries, n keys]"""
        if self.keys["position"] == "table":
            return 0.0
        per_layer = self.keys["position_bias_per_layer"]
        table = self._floats(f"layers.{layer}.position_bias" if per_layer else "position_bias")
        distance = np.arange(n) - np.arange(n)[:, None]  # of the key after the query
        return table[:, (distance + table.shape[1] // 2).clip(0, table.shape[1] - 1)]
