"""The decoder in plain numpy, straight from `decoder.weights`: the oracle of the tests and of the gates.

Written from the definition of the numbers (`csrc/kernels/kernels.h`), not from the C code; slow and plain.
Hidden states are float32 as in C; sums run in float64 and are rounded once, so only the core's rounding
differs. With int8 weights, activations are quantized as the kernels do it.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_s2s.weights import Weights

Floats = NDArray[np.float32]


class ReferenceDecoder:
    """Decodes one sequence from one source: `feed` it tokens, get logits.

    `cross_kv` is what the encoder gave, float32 [n_layers, 2 (K, V), n_heads, source_len, d_head].
    """

    def __init__(self, weights: Weights, cross_kv: Floats):
        self.keys, self.tensors = weights.keys, weights.tensors
        self.int8 = self.keys["weights_dtype"] == "int8"
        self.n_heads, self.d_head = int(self.keys["n_heads"]), int(self.keys["d_head"])
        self.cross_kv = cross_kv
        self.self_kv: list[list[Floats]] = [
            [] for _ in cross_kv
        ]  # per layer, per position [2, n_heads, d_head]
        self.hidden: list[Floats] = []

    def feed(self, tokens: Sequence[int]) -> Floats:
        """Continues with `tokens`; returns the logits after each, [len(tokens), vocab_size].

        Afterwards `hidden` holds the residual stream of these tokens, each float32 [len(tokens), d_model]:
        the embeddings, the output of every layer, and last the final norm.
        """
        x = self._embed(tokens)
        self.hidden = [x]
        for layer in range(len(self.cross_kv)):
            x = x + self._self_attention(layer, self._norm(x, f"layers.{layer}.self_attn_norm.weight"))
            x = x + self._cross_attention(layer, self._norm(x, f"layers.{layer}.cross_attn_norm.weight"))
            x = x + self._feed_forward(layer, self._norm(x, f"layers.{layer}.ffn_norm.weight"))
            self.hidden.append(x)
        x = self._norm(x, "final_norm.weight")
        self.hidden.append(x)
        return self._head(x)

    def _embed(self, tokens: Sequence[int]) -> Floats:
        rows = self.tensors["embedding.weight"][list(tokens)].astype(np.float32)
        if self.int8:
            rows = rows * self.tensors["embedding.weight_scale"][list(tokens), None]
        return rows * np.float32(self.keys["embedding_scale"])

    def _norm(self, x: Floats, name: str) -> Floats:
        mean_square = np.square(x, dtype=np.float64).mean(axis=-1, keepdims=True)
        scaled: Floats = (x / np.sqrt(mean_square + float(self.keys["norm_eps"]))).astype(np.float32)
        return scaled * self.tensors[name]

    def _floats(self, name: str) -> Floats:
        return self.tensors[name].astype(np.float32, copy=False)

    def _linear(self, x: Floats, name: str) -> Floats:
        """[n, in] -> [n, out]"""
        weight = self.tensors[name].astype(np.float64)  # [out, in]
        if not self.int8:
            return (x @ weight.T).astype(np.float32)
        codes, scale = quantize_activations(x)
        sums = (codes @ weight.T).astype(np.float32)  # exact integers
        return sums * scale * self.tensors[f"{name}_scale"]

    def _self_attention(self, layer: int, x: Floats) -> Floats:
        q, k, v = np.split(self._linear(x, f"layers.{layer}.self_attn.qkv.weight"), 3, axis=-1)
        n_before = len(self.self_kv[layer])
        for k_row, v_row in zip(k, v, strict=True):
            self.self_kv[layer].append(np.stack([k_row, v_row]).reshape(2, self.n_heads, self.d_head))
        keys, values = np.stack(self.self_kv[layer], axis=2)  # each [n_heads, n_positions, d_head]
        query_positions = n_before + np.arange(len(x))[:, None]
        distance = query_positions - np.arange(keys.shape[1])  # [n_queries, n_positions], < 0: the future
        table = self._position_bias(layer)  # [n_heads, n_distances]
        bias = np.where(distance < 0, -np.inf, table[:, distance.clip(0, table.shape[1] - 1)])
        return self._linear(self._attend(q, keys, values, bias), f"layers.{layer}.self_attn.o.weight")

    def _cross_attention(self, layer: int, x: Floats) -> Floats:
        q = self._linear(x, f"layers.{layer}.cross_attn.q.weight")
        keys, values = self.cross_kv[layer]  # each [n_heads, source_len, d_head]
        return self._linear(self._attend(q, keys, values), f"layers.{layer}.cross_attn.o.weight")

    def _position_bias(self, layer: int) -> Floats:
        per_layer = self.keys["position_bias_per_layer"]
        return self._floats(f"layers.{layer}.position_bias" if per_layer else "position_bias")

    def _attend(
        self, q: Floats, keys: Floats, values: Floats, bias: NDArray[np.floating] | float = 0.0
    ) -> Floats:
        """q [n, inner], keys and values [n_heads, m, d_head], bias [n_heads, n, m] -> [n, inner].

        Scores are not scaled; a family that scales them does it in q.
        """
        queries = q.reshape(len(q), self.n_heads, self.d_head).swapaxes(0, 1).astype(np.float64)
        scores = queries @ keys.swapaxes(1, 2) + bias  # [n_heads, n, m]
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed: Floats = (weights @ values).swapaxes(0, 1).reshape(len(q), -1).astype(np.float32)
        return mixed

    def _feed_forward(self, layer: int, x: Floats) -> Floats:
        activation, gated = (
            str(self.keys["ffn"]).removeprefix("gated_"),
            str(self.keys["ffn"]).startswith("gated_"),
        )
        up = self._linear(x, f"layers.{layer}.ffn.up.weight")
        if gated:
            gate, up = np.split(up, 2, axis=-1)
            up = ACTIVATIONS[activation](gate) * up
        else:
            up = ACTIVATIONS[activation](up)
        return self._linear(up, f"layers.{layer}.ffn.down.weight")

    def _head(self, x: Floats) -> Floats:
        """Logits; the `head_rescore` best of each row once more with float activations."""
        name = "embedding.weight" if self.keys["tied_lm_head"] else "lm_head.weight"
        logits = self._linear(x, name)
        n_best = int(self.keys["head_rescore"])
        for row, activations in zip(logits, x, strict=True):
            best = np.argsort(-row, kind="stable")[:n_best]  # of equal logits the lowest id first
            exact = self.tensors[name][best].astype(np.float64) @ activations
            row[best] = exact.astype(np.float32) * self.tensors[f"{name}_scale"][best] if n_best else []
        return logits


def quantize_activations(x: Floats) -> tuple[Floats, Floats]:
    """[n, width] -> codes in [-127, 127] and a scale per row [n, 1]; x ~ codes * scale, half to even."""
    scale = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    return np.rint(np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)), scale


def _gelu_tanh(x: Floats) -> Floats:
    wide = x.astype(np.float64)
    inner = np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
    y: Floats = (0.5 * wide * (1 + np.tanh(inner))).astype(np.float32)
    return y


def _relu(x: Floats) -> Floats:
    return np.maximum(x, np.float32(0))


def _silu(x: Floats) -> Floats:
    y: Floats = (x / (1 + np.exp(-x.astype(np.float64)))).astype(np.float32)
    return y


ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {"relu": _relu, "gelu_tanh": _gelu_tanh, "silu": _silu}
