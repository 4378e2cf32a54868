"""edge_s2s itself, int8, the bundle converted from the same checkpoint."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

VERSION = f"edge_s2s {version('edge_s2s')}"


def prepare(checkpoint: Path, folder: Path) -> None:
    """Convert the checkpoint to an int8 bundle."""
    from edge_s2s_export.convert import convert

    convert(checkpoint, folder / "model.es2s", dtype="int8", replace=True)


def load(folder: Path, threads: int) -> Callable[[list[int], int], list[int]]:
    """Open the bundle."""
    import edge_s2s

    model = edge_s2s.load(folder / "model.es2s", num_threads=threads)

    def generate(input_ids: list[int], n_tokens: int) -> list[int]:
        options = edge_s2s.GenerationOptions(
            num_beams=1, max_new_tokens=n_tokens, min_new_tokens=n_tokens, no_repeat_ngram_size=0
        )
        return list(model.generate([input_ids], options)[0][0].token_ids)

    return generate
