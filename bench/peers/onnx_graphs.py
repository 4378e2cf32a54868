"""optimum's export of a checkpoint, which both peers on ONNX Runtime quantize, each in its own way."""

import gc
import shutil
from pathlib import Path

ENCODER, FIRST, NEXT, MERGED = (
    f"{name}.onnx"
    for name in ("encoder_model", "decoder_model", "decoder_with_past_model", "decoder_model_merged")
)


def export(checkpoint: Path, folder: Path) -> Path:
    """The folder with the four float32 graphs; the second caller gets what the first has made."""
    done = folder.parent / "onnx-float32"
    if not done.exists():
        from optimum.exporters.onnx import main_export

        part = done.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        main_export(str(checkpoint), part, task="text2text-generation-with-past", do_validation=False)
        part.rename(done)
        gc.collect()
    return done


def copy_others(graphs: Path, folder: Path) -> None:
    """Copies configuration and tokenizer, without the graphs."""
    for file in graphs.iterdir():
        if ".onnx" not in file.name:
            shutil.copy(file, folder)
