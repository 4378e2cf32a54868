"""The decoder in plain numpy, straight from `decoder.weights`: the oracle of the tests and of the gates."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_s2s.weights import Weights

from .reference_stack import Floats, ReferenceStack


class ReferenceDecoder(ReferenceStack):
    """Decodes one sequence from one source: `feed` it tokens, get logits.

    `cross_kv` is what the encoder gave, float32 [n_layers, 2 (K, V), n_heads, source_len, d_head].
    """

    def __init__(self, weights: Weights, cross_kv: Floats):
        super().__init__(weights)
        self.cross_kv = self._kept(cross_kv)
        self.self_kv: list[list[Floats]] = [
            [] for _ in cross_kv
        ]  # per layer, per position [2, n_heads, d_head]
        self.hidden: list[Floats] = []

    def feed(self, tokens: Sequence[int]) -> Floats:
        """Continues with `tokens`; returns the logits after each, [len(tokens), vocab_size].

        Afterwards `hidden` holds the residual stream of these tokens, each float32 [len(tokens), d_model]:
        the embeddings, the output of every layer, and last the final norm, if there is one.
        """
        x = self._embed(tokens)
        self.hidden = [x]
        for layer in range(len(self.cross_kv)):
            x = self._residual(x, self._self_attention, layer, "self_attn_norm")
            x = self._residual(x, self._cross_attention, layer, "cross_attn_norm")
            x = self._residual(x, self._feed_forward, layer, "ffn_norm")
            self.hidden.append(x)
        if self.keys["final_norm"]:
            x = self._norm(x, "final_norm")
            self.hidden.append(x)
        return self._head(x)

    def _kept(self, x: Floats) -> Floats:
        """Keys or values as the cache keeps them."""
        return x.astype(np.float16).astype(np.float32) if self.keys["kv_cache_dtype"] == "float16" else x

    def _embed(self, tokens: Sequence[int]) -> Floats:
        rows = self.tensors["embedding.weight"][list(tokens)].astype(np.float32)
        if self.int8:
            rows = rows * self.tensors["embedding.weight_scale"][list(tokens), None]
        x = rows * np.float32(self.keys["embedding_scale"])
        if self.keys["position"] == "table":
            n_before = len(self.self_kv[0])
            x = x + self._floats("position_embedding.weight")[n_before : n_before + len(tokens)]
        return self._norm(x, "embedding_norm") if self.keys["embedding_norm"] else x

    def _self_attention(self, layer: int, x: Floats) -> Floats:
        q, k, v = np.split(self._linear(x, f"layers.{layer}.self_attn.qkv"), 3, axis=-1)
        n_before = len(self.self_kv[layer])
        for k_row, v_row in zip(self._kept(k), self._kept(v), strict=True):
            self.self_kv[layer].append(np.stack([k_row, v_row]).reshape(2, self.n_heads, self.d_head))
        keys, values = np.stack(self.self_kv[layer], axis=2)  # each [n_heads, n_positions, d_head]
        query_positions = n_before + np.arange(len(x))[:, None]
        distance = query_positions - np.arange(keys.shape[1])  # [n_queries, n_positions], < 0: the future
        bias = np.where(distance < 0, -np.inf, self._position_bias(layer, distance))
        return self._linear(self._attend(q, keys, values, bias), f"layers.{layer}.self_attn.o")

    def _cross_attention(self, layer: int, x: Floats) -> Floats:
        q = self._linear(x, f"layers.{layer}.cross_attn.q")
        keys, values = self.cross_kv[layer]  # each [n_heads, source_len, d_head]
        return self._linear(self._attend(q, keys, values), f"layers.{layer}.cross_attn.o")

    def _position_bias(self, layer: int, distance: NDArray[np.intp]) -> Floats | float:
        """Of keys at `distance` [n_queries, n_positions]: [n_heads, n_queries, n_positions]."""
        if self.keys["position"] == "table":
            return 0.0
        per_layer = self.keys["position_bias_per_layer"]
        table = self._floats(f"layers.{layer}.position_bias" if per_layer else "position_bias")
        return table[:, distance.clip(0, table.shape[1] - 1)]

    def _head(self, x: Floats) -> Floats:
        """Logits; the `head_rescore` best of each row once more with float activations."""
        name = "embedding.weight" if self.keys["tied_lm_head"] else "lm_head.weight"
        logits = self._product(x, name)
        bias = np.zeros(logits.shape[1], np.float32)
        if self.keys["final_logits_bias"]:
            bias = self._floats("final_logits_bias")
        logits += bias
        n_best = int(self.keys["head_rescore"])
        for row, activations in zip(logits, x, strict=True):
            best = np.argsort(-row, kind="stable")[:n_best]  # of equal logits the lowest id first
            exact = self.tensors[name][best].astype(np.float64) @ activations
            if n_best:
                row[best] = exact.astype(np.float32) * self.tensors[f"{name}_scale"][best] + bias[best]
        return logits
