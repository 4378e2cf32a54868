"""transformers on PyTorch, every Linear in dynamic int8."""

import warnings
from pathlib import Path

import torch

from bench.peers import Loaded
from bench.peers.transformers import load_model, loaded, prepare

__all__ = ["load", "prepare"]


def load(folder: Path, threads: int) -> Loaded:
    """Loads the checkpoint and quantizes it, which is how PyTorch has it done: at every start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is to move to a package of its own
        model = torch.ao.quantization.quantize_dynamic(
            load_model(folder, threads), {torch.nn.Linear}, dtype=torch.qint8
        )
    return loaded(model, lambda sources: model.get_encoder()(torch.tensor(sources)))
