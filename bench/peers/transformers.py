"""transformers on PyTorch, float32, eager: what most people start from."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM

from bench.peers import MAX_NEW_TOKENS, Ids, Loaded

_MODEL = "checkpoint"


def prepare(checkpoint: Path, folder: Path) -> None:
    """Links to the checkpoint."""
    (folder / _MODEL).symlink_to(checkpoint.resolve(), target_is_directory=True)


def load_model(folder: Path, threads: int) -> Any:
    """The checkpoint in float32."""
    torch.set_num_threads(threads)
    return AutoModelForSeq2SeqLM.from_pretrained(folder / _MODEL, dtype=torch.float32).eval()


def load(folder: Path, threads: int) -> Loaded:
    """Loads the checkpoint in float32."""
    model = load_model(folder, threads)
    return loaded(model, lambda sources: model.get_encoder()(torch.tensor(sources)))


def loaded(model: Any, encode: Callable[[Ids], object]) -> Loaded:
    """Whatever has transformers' `generate`."""

    def generate(sources: Ids, n_tokens: int | None, num_beams: int) -> Ids:
        input_ids = torch.tensor(sources)
        with torch.inference_mode():
            out = model.generate(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                max_new_tokens=n_tokens or MAX_NEW_TOKENS,
                min_new_tokens=n_tokens or 0,
                num_beams=num_beams,
                do_sample=False,
                no_repeat_ngram_size=0,
            )
        return [[int(token) for token in row[1:]] for row in out]

    def timed_encode(sources: Ids) -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            encode(sources)
        return time.perf_counter() - start

    return Loaded(generate, timed_encode)
