"""The decoder in plain numpy, straight from `decoder.weights`: the oracle of the tests and of the gates.

Written from the definition of the numbers (`csrc/kernels/kernels.h`), not from the C code; slow and plain.
Hidden states are float32 as in C; sums run in float64 and are rounded once, so only the core's rounding
differs. With int8 weights, activations are quantized as the kernels do it.
"""

import math
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

    def _residual(self, x: Floats, block: Callable[[int, Floats], Floats], layer: int, norm: str) -> Floats:
        """x + block(norm(x)), or with post-norm norm(x + block(x))."""
        norm = f"layers.{layer}.{norm}"
        if self.keys["norm_position"] == "post":
            return self._norm(x + block(layer, x), norm)
        return x + block(layer, self._norm(x, norm))

    def _embed(self, tokens: Sequence[int]) -> Floats:
        rows = self.tensors["embedding.weight"][list(tokens)].astype(np.float32)
        if self.int8:
            rows = rows * self.tensors["embedding.weight_scale"][list(tokens), None]
        x = rows * np.float32(self.keys["embedding_scale"])
        if self.keys["position"] == "table":
            n_before = len(self.self_kv[0])
            x = x + self._floats("position_embedding.weight")[n_before : n_before + len(tokens)]
        return self._norm(x, "embedding_norm") if self.keys["embedding_norm"] else x

    def _norm(self, x: Floats, name: str) -> Floats:
        wide = x.astype(np.float64)
        is_layer = self.keys["norm"] == "layer"
        if is_layer:
            wide -= wide.mean(axis=-1, keepdims=True)
        mean_square = np.square(wide).mean(axis=-1, keepdims=True)
        scaled: Floats = (wide / np.sqrt(mean_square + float(self.keys["norm_eps"]))).astype(np.float32)
        y: Floats = scaled * self.tensors[f"{name}.weight"]
        return y + self._floats(f"{name}.bias") if is_layer else y

    def _floats(self, name: str) -> Floats:
        return self.tensors[name].astype(np.float32, copy=False)

    def _linear(self, x: Floats, name: str) -> Floats:
        """`<name>.weight` and, if the model has biases, `<name>.bias`: [n, in] -> [n, out]"""
        y = self._product(x, f"{name}.weight")
        return y + self._floats(f"{name}.bias") if self.keys["linear_bias"] else y

    def _product(self, x: Floats, name: str) -> Floats:
        """[n, in] -> [n, out]"""
        weight = self.tensors[name].astype(np.float64)  # [out, in]
        if not self.int8:
            return (x @ weight.T).astype(np.float32)
        codes, scale = quantize_activations(x)
        sums = (codes @ weight.T).astype(np.float32)  # exact integers
        return sums * scale * self.tensors[f"{name}_scale"]

    def _self_attention(self, layer: int, x: Floats) -> Floats:
        q, k, v = np.split(self._linear(x, f"layers.{layer}.self_attn.qkv"), 3, axis=-1)
        n_before = len(self.self_kv[layer])
        for k_row, v_row in zip(k, v, strict=True):
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
        up = self._linear(x, f"layers.{layer}.ffn.up")
        if gated:
            gate, up = np.split(up, 2, axis=-1)
            up = ACTIVATIONS[activation](gate) * up
        else:
            up = ACTIVATIONS[activation](up)
        return self._linear(up, f"layers.{layer}.ffn.down")

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


def quantize_activations(x: Floats) -> tuple[Floats, Floats]:
    """[n, width] -> codes in [-127, 127] and a scale per row [n, 1]; x ~ codes * scale, half to even."""
    scale = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    return np.rint(np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)), scale


def _gelu_tanh(x: Floats) -> Floats:
    wide = x.astype(np.float64)
    inner = np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
    y: Floats = (0.5 * wide * (1 + np.tanh(inner))).astype(np.float32)
    return y


def _gelu_erf(x: Floats) -> Floats:
    y: Floats = (0.5 * x * np.vectorize(math.erfc, otypes=[np.float64])(-x / math.sqrt(2))).astype(np.float32)
    return y


def _relu(x: Floats) -> Floats:
    return np.maximum(x, np.float32(0))


def _silu(x: Floats) -> Floats:
    y: Floats = (x / (1 + np.exp(-x.astype(np.float64)))).astype(np.float32)
    return y


ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "relu": _relu,
    "gelu_tanh": _gelu_tanh,
    "gelu_erf": _gelu_erf,
    "silu": _silu,
}
