"""What the numpy encoder and decoder share: a stack of layers, straight from its weights.

Written from the definition of the numbers (`csrc/kernels/kernels.h`), not from the C code; slow and plain.
Hidden states are float32 as in C; sums run in float64 and are rounded once, so only the core's rounding
differs. With int8 weights, activations are quantized as the kernels do it.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edge_s2s.weights import Weights

Floats = NDArray[np.float32]


class ReferenceStack:
    """Blocks of a stack of layers. `_floats`, `_linear` and `_norm` take the names of its tensors."""

    def __init__(self, weights: Weights):
        self.keys, self.tensors = weights.keys, weights.tensors
        self.int8 = self.keys["weights_dtype"] == "int8"
        self.n_heads, self.d_head = int(self.keys["n_heads"]), int(self.keys["d_head"])

    def _residual(self, x: Floats, block: Callable[[int, Floats], Floats], layer: int, norm: str) -> Floats:
        """x + block(norm(x)), or with post-norm norm(x + block(x))."""
        norm = f"layers.{layer}.{norm}"
        if self.keys["norm_position"] == "post":
            return self._norm(x + block(layer, x), norm)
        return x + block(layer, self._norm(x, norm))

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
