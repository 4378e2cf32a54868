"""optimum on ONNX Runtime, dynamic int8 (its avx512_vnni preset): the usual ONNX route."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

VERSION = f"optimum-onnx {version('optimum-onnx')} onnxruntime {version('onnxruntime')}"


def prepare(checkpoint: Path, folder: Path) -> None:
    """Export the checkpoint with a merged decoder and quantize both graphs."""
    from optimum.onnxruntime import AutoQuantizationConfig, ORTModelForSeq2SeqLM, ORTQuantizer

    model = ORTModelForSeq2SeqLM.from_pretrained(checkpoint, export=True, use_cache=True, use_merged=True)
    model.save_pretrained(folder)
    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    for name in ("encoder_model", "decoder_model_merged"):
        quantizer = ORTQuantizer.from_pretrained(folder, file_name=f"{name}.onnx")
        quantizer.quantize(quantization_config=config, save_dir=folder)
        # Under its usual name: a merged decoder of another name is not found.
        (folder / f"{name}_quantized.onnx").replace(folder / f"{name}.onnx")


def load(folder: Path, threads: int) -> Callable[[list[int], int], list[int]]:
    """Open the quantized graphs."""
    import onnxruntime
    import torch
    from optimum.onnxruntime import ORTModelForSeq2SeqLM

    torch.set_num_threads(threads)
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = threads
    model = ORTModelForSeq2SeqLM.from_pretrained(
        folder,
        use_cache=True,
        use_merged=True,
        session_options=session_options,
    )

    def generate(input_ids: list[int], n_tokens: int) -> list[int]:
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
