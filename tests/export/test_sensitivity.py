"""The scan finds the matrix that int8 hurts, whether it is the encoder's or the decoder's."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from edge_s2s_export import cli
from edge_s2s_export.errors import ExportError
from edge_s2s_export.sensitivity import ALL, sensitivity
from tiny_folders import PREFIX, make_tiny_folder

SPOILED = {
    "encoder.layers.1.ffn.down.weight": "encoder.block.1.layer.1.DenseReluDense.wo.weight",
    "decoder.layers.0.cross_attn.o.weight": "decoder.block.0.layer.1.EncDecAttention.o.weight",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_folder(tmp_path / "tiny", seed=1)


@pytest.mark.parametrize("name", SPOILED)
def test_a_matrix_with_outliers_is_the_most_expensive_one(folder: Path, name: str):
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    weight = model.state_dict()[SPOILED[name]]
    with torch.no_grad():
        weight[:, 0] = 60 * weight.abs().max()  # of each row; the others get a sixtieth of the steps
        weight[::2, 0] *= -1
    model.save_pretrained(folder)
    costs = sensitivity(folder, prefix=PREFIX)
    assert [cost.name for cost in costs[:2]] == [ALL, name]
    assert costs[1].mean_kl > costs[2].mean_kl
    assert costs[0].n_weights == sum(cost.n_weights for cost in costs[1:])
    assert costs[0].mean_kl > costs[1].mean_kl / 3
    assert costs[1].high_kl >= costs[1].mean_kl


def test_matrices_come_one_by_one_and_in_order(folder: Path):
    heard = []
    costs = sensitivity(folder, texts=["a text"], on_progress=lambda *done: heard.append(done))
    n = len(costs) - 1
    assert heard == [(i, n) for i in range(1, n + 1)]
    assert len({cost.name for cost in costs}) == n + 1
    kls = [cost.mean_kl for cost in costs[1:]]
    assert kls == sorted(kls, reverse=True)
    assert kls[0] > 0
    with pytest.raises(ExportError, match="at least one"):
        sensitivity(folder, texts=[])


def test_the_command_prints_a_table(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"source": text}) for text in ("one", "two")))
    assert cli.main(["sensitivity", str(folder), "--prefix", PREFIX, "--texts", str(texts)]) == 0
    heading, first, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["rounded", "to", "int8", "weights", "mean", "KL", "p99", "KL", "changed"]
    assert first.startswith(ALL)
    assert any(row.startswith("decoder.embedding.weight ") for row in rows)
