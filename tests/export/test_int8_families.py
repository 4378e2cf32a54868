"""What int8 costs a model of each architecture that has learnt something: to copy its source.

Random weights would not tell: their logits are full of near ties, which no trained model has.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch.nn.functional import cross_entropy

from edge_s2s.decoder import DecoderModel
from edge_s2s.encoder import _products_saturate
from edge_s2s.weights import write_weights
from edge_s2s_export import families
from edge_s2s_export.convert import HEAD_RESCORE, _quantized
from edge_s2s_export.onnx_encoder import export_encoder
from tiny_models import ALL_KINDS, BART_SIZES, T5_SIZES

MIN_AGREEMENT = 0.975
FIRST_TOKEN, N_TOKENS, LENGTH, BATCH = 3, 20, 6, 32
N_SOURCES = 100
REPORT = Path(__file__).parent.parent.parent / "reports" / "int8_families.json"


def random_batch(hf: Any, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources with EOS, which are the labels too, and what the decoder gets: both int64 [n, LENGTH + 1]."""
    tokens = torch.randint(FIRST_TOKEN, FIRST_TOKEN + N_TOKENS, (n, LENGTH))
    eos = torch.full((n, 1), hf.config.eos_token_id)
    start = torch.full((n, 1), hf.config.decoder_start_token_id)
    return torch.cat([tokens, eos], dim=1), torch.cat([start, tokens], dim=1)


def trained(kind: str, n_steps: int) -> tuple[Any, float]:
    """A model of `ALL_KINDS` that copies, and its accuracy with the last batch."""
    torch.manual_seed(0)
    (model_class, config_class), own = ALL_KINDS[kind]
    if "feed_forward_proj" in config_class().to_dict():
        sizes = {**T5_SIZES, "dropout_rate": 0.0}
    else:
        rates = dict.fromkeys(["dropout", "attention_dropout", "encoder_layerdrop", "decoder_layerdrop"], 0.0)
        sizes = {**BART_SIZES, **rates, "init_std": 0.12}
    hf = model_class(config_class(**{**sizes, **own, "d_model": 64})).train()
    optimizer = torch.optim.AdamW(hf.parameters(), lr=5e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, n_steps)
    accuracy = 0.0
    for _ in range(n_steps):
        source, decoder_ids = random_batch(hf, BATCH)
        logits = hf(input_ids=source, decoder_input_ids=decoder_ids).logits
        loss = cross_entropy(logits.flatten(0, 1), source.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        accuracy = float((logits.argmax(dim=-1) == source).float().mean())
    return hf.eval(), accuracy


@torch.no_grad()
def int8_agreement(hf: Any) -> float:
    """How often the best token of int8 encoder and decoder is float32's, with teacher forcing."""
    spec = families.describe(hf)
    keys = {**spec.keys, "weights_dtype": "int8", "head_rescore": HEAD_RESCORE}
    decoder = DecoderModel(write_weights(keys, _quantized(spec, keys)))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if _products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    graph = export_encoder(spec.encoder, dtype="int8")
    encoder = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    sources, decoder_ids = random_batch(hf, N_SOURCES)
    expected = hf(input_ids=sources, decoder_input_ids=decoder_ids).logits.argmax(dim=-1).numpy()
    n_agreed = 0
    with decoder.session(1, 1, LENGTH + 1, LENGTH + 1) as session:
        for source, tokens, best in zip(sources.tolist(), decoder_ids.tolist(), expected, strict=True):
            (cross_kv,) = encoder.run(["cross_kv"], {"inputs_embeds": decoder.embed(source)[None]})
            session.set_source(0, cross_kv[0])
            logits = np.concatenate([session.step([token]) for token in tokens])
            n_agreed += int((logits.argmax(axis=1) == best).sum())
    return n_agreed / expected.size


@pytest.fixture
def one_torch_thread():
    """Matrices this small are far slower with two, all the more if the machine is busy."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("kind", ["bart", "marian"])  # those that learn it in seconds
def test_int8_agrees_with_float32_after_a_short_training(kind: str):
    hf, accuracy = trained(kind, n_steps=120)
    assert accuracy > 0.9
    assert int8_agreement(hf) >= MIN_AGREEMENT


@pytest.mark.release
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("one_torch_thread")
def test_int8_agrees_with_float32_for_every_architecture():
    rows = []
    for kind in ALL_KINDS:
        hf, accuracy = trained(kind, n_steps=600)
        rows.append({"kind": kind, "copy_accuracy": accuracy, "int8_agreement": int8_agreement(hf)})
        print(rows[-1], flush=True)
    REPORT.parent.mkdir(exist_ok=True)
    document = {"limit": MIN_AGREEMENT, "steps": 600, "kinds": rows}
    REPORT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    assert min(row["int8_agreement"] for row in rows) >= MIN_AGREEMENT
