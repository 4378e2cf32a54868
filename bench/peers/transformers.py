"""transformers on PyTorch, float32, eager: what most people start from."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

VERSION = f"transformers {version('transformers')} torch {version('torch')}"


def prepare(checkpoint: Path, folder: Path) -> None:
    """Remember where the checkpoint is."""
    (folder / "checkpoint").write_text(str(checkpoint.resolve()))


def load(folder: Path, threads: int) -> Callable[[list[int], int], list[int]]:
    """Load the checkpoint in float32."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    torch.set_num_threads(threads)
    checkpoint = (folder / "checkpoint").read_text()
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint, dtype=torch.float32).eval()

    def generate(input_ids: list[int], n_tokens: int) -> list[int]:
        with torch.inference_mode():
            out = model.generate(
                input_ids=torch.tensor([input_ids]),
                attention_mask=torch.ones(1, len(input_ids), dtype=torch.long),
                max_new_tokens=n_tokens,
                min_new_tokens=n_tokens,
                num_beams=1,
                do_sample=False,
                no_repeat_ngram_size=0,
            )
        return [int(token) for token in out[0, 1:]]

    return generate
