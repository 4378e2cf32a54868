"""What the layouts share: names of activations, embedding tables, and tensors as the runtime wants them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ExportError

ACTIVATIONS = {  # transformers' name -> ours
    "relu": "relu",
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}


def activation(name: str) -> str:
    """The runtime's name of an activation of transformers."""
    if name not in ACTIVATIONS:
        raise ExportError(f"config.json: activation {name!r} is unknown; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def check_pair(tokenizer: Any, source_vocab_size: int) -> None:
    """Raises `ExportError` if the tokenizer, if there is one, has tokens without an embedding."""
    if tokenizer is not None and len(tokenizer) > source_vocab_size:
        raise ExportError(
            f"tokenizer and model are not a pair: {len(tokenizer)} tokens, embeddings for {source_vocab_size}"
        )


def embedding_tables(source: Tensor, target: Tensor, head: Tensor) -> dict[str, Tensor]:
    """The tables that a bundle stores, each [vocab_size, d_model], and each number once.

    What the config says about ties is not trusted: transformers ignores it in places. Equal is tied.
    """
    tables = {"embedding.weight": target}
    if not torch.equal(source, target):
        tables["encoder_embedding.weight"] = source
    if not torch.equal(head, target):
        tables["lm_head.weight"] = head
    return tables


def table_keys(tables: Mapping[str, Tensor]) -> dict[str, int]:
    """The keys of `decoder.weights` that speak of `embedding_tables`."""
    keys = {
        "vocab_size": len(tables["embedding.weight"]),
        "tied_lm_head": int("lm_head.weight" not in tables),
    }
    if "encoder_embedding.weight" in tables:
        keys["source_vocab_size"] = len(tables["encoder_embedding.weight"])
    return keys


def as_arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """float32, C-contiguous copies."""
    return {name: np.array(tensor.detach().float().numpy(), order="C") for name, tensor in tensors.items()}
