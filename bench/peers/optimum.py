"""optimum on ONNX Runtime, merged decoder, dynamic int8 by its own preset: the usual ONNX route."""

from pathlib import Path

import onnxruntime
import torch
from optimum.onnxruntime import ORTModelForSeq2SeqLM

from bench.peers import Ids, Loaded
from bench.peers.onnx_graphs import ENCODER, MERGED, copy_others, export
from bench.peers.transformers import loaded


def prepare(checkpoint: Path, folder: Path) -> None:
    """Quantizes encoder and merged decoder."""
    from optimum.onnxruntime import AutoQuantizationConfig, ORTQuantizer

    graphs = export(checkpoint, folder)
    copy_others(graphs, folder)
    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
    for name in (ENCODER, MERGED):
        quantizer = ORTQuantizer.from_pretrained(graphs, file_name=name)
        # Under its usual name: a merged decoder of another name is not found.
        quantizer.quantize(quantization_config=config, save_dir=folder, file_suffix="")


def load(folder: Path, threads: int, spinning: str = "1") -> Loaded:
    """Opens the quantized graphs."""
    torch.set_num_threads(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    model = ORTModelForSeq2SeqLM.from_pretrained(
        folder, use_cache=True, use_merged=True, session_options=options
    )

    def encode(sources: Ids) -> None:
        input_ids = torch.tensor(sources)
        model.encoder(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))

    return loaded(model, encode)
