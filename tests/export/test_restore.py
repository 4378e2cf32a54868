"""What a bundle came from comes back: converted again it is the same bundle, and anything else is refused."""

import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import edge_s2s
from edge_s2s.bundle import open_bundle
from edge_s2s.errors import BundleError
from edge_s2s.generation import GenerationOptions
from edge_s2s.weights import read_weights
from edge_s2s_export import cli
from edge_s2s_export.convert import convert
from edge_s2s_export.errors import ExportError
from edge_s2s_export.restore import restore, restored
from tiny_folders import make_tiny_folder

sys.path.append(str(Path(__file__).parents[1] / "attacks"))
from mutants import mutate, sealed

KINDS = ("t5", "t5-untied", "t5-v1.1-tied", "t5-silu")
N_MUTANTS = 400
MEASURED = {"eval.json", "MODEL_CARD.md"}  # what int8 cost, which is nothing the second time
ULPS = 2.4e-7  # two, of the one norm that is multiplied and divided by a square root


def contents(bundle: Path) -> dict[str, bytes]:
    with open_bundle(bundle) as opened:
        return {name: bytes(opened.read(name)) for name in opened.manifest.files}


def codes(decoder_weights: bytes) -> dict[str, np.ndarray]:
    tensors = read_weights(decoder_weights).tensors
    return {name: tensor for name, tensor in tensors.items() if tensor.dtype == np.int8}


@pytest.mark.parametrize("kind", KINDS)
def test_a_float32_bundle_comes_back_bit_by_bit(kind: str, tmp_path: Path):
    folder = make_tiny_folder(tmp_path / "hf", kind=kind)
    names = {"name": "x", "prefix": "tell: ", "dtype": "float32"}
    convert(folder, tmp_path / "first.es2s", **names)
    manifest = restore(tmp_path / "first.es2s", tmp_path / "again")
    assert (manifest.name, manifest.prefix) == ("x", "tell: ")
    before, after = (AutoModelForSeq2SeqLM.from_pretrained(path) for path in (folder, tmp_path / "again"))
    for name, weight in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], weight, rtol=ULPS, atol=0)
    convert(tmp_path / "again", tmp_path / "second.es2s", **names)
    assert (tmp_path / "second.es2s").read_bytes() == (tmp_path / "first.es2s").read_bytes()


@pytest.mark.parametrize("kind", ["t5", "t5-v1.1-tied"])
def test_an_int8_bundle_comes_back_with_the_same_codes(kind: str, tmp_path: Path):
    convert(make_tiny_folder(tmp_path / "hf", kind=kind), tmp_path / "first.es2s", name="x")
    restore(tmp_path / "first.es2s", tmp_path / "again")
    convert(tmp_path / "again", tmp_path / "second.es2s", name="x")
    first, second = contents(tmp_path / "first.es2s"), contents(tmp_path / "second.es2s")
    assert {name for name in first if first[name] != second[name]} <= {*MEASURED, "decoder.weights"}
    ours, theirs = codes(first["decoder.weights"]), codes(second["decoder.weights"])
    assert len(ours) > 5
    for name, values in ours.items():
        np.testing.assert_array_equal(theirs[name], values)


def test_settings_come_back_as_transformers_knows_them(tmp_path: Path):
    folder = make_tiny_folder(tmp_path / "hf")
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    model.generation_config.update(
        do_sample=True, top_k=9, min_new_tokens=2, bad_words_ids=[[5, 6], [7]], repetition_penalty=1.25
    )
    model.save_pretrained(folder)
    convert(folder, tmp_path / "first.es2s", name="x", dtype="float32")
    restore(tmp_path / "first.es2s", tmp_path / "again")
    found = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "again").generation_config
    for name, value in model.generation_config.to_diff_dict().items():
        if name not in ("transformers_version", "_from_model_config"):
            assert getattr(found, name) == value, name


def test_the_default_model_writes_in_transformers_what_it_writes_here(default_checkpoint: Path):
    """Greedy, with weights of int8 in both; activations are float32 in one: a word may differ."""
    hf = AutoModelForSeq2SeqLM.from_pretrained(default_checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(default_checkpoint)
    text = (Path(__file__).parents[2] / "examples" / "dialogue.txt").read_text(encoding="utf-8")
    with edge_s2s.load() as model:
        ids = model.encode(text)
        [[ours]] = model.generate([text], GenerationOptions(num_beams=1))
        assert tokenizer(model.manifest.prefix + text).input_ids == ids
    theirs = hf.generate(torch.tensor([ids]), num_beams=1)[0, 1:].tolist()
    n_same = next((i for i, (a, b) in enumerate(zip(ours.token_ids, theirs, strict=False)) if a != b), 10**9)
    assert n_same >= 10
    assert tokenizer.decode(theirs, skip_special_tokens=True).split()[:5] == ours.text.split()[:5]


@pytest.mark.parametrize(
    ("kind", "fault"), [("bart", "final_norm"), ("byt5", "max_source_len: the bundle has")]
)
def test_another_family_is_refused(kind: str, fault: str, tmp_path: Path):
    convert(make_tiny_folder(tmp_path / "hf", kind=kind), tmp_path / "b.es2s", name="x", dtype="float32")
    with pytest.raises(ExportError, match=f"expected a T5 that convert has written; .*{fault}"):
        restore(tmp_path / "b.es2s", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_an_encoder_of_the_core_is_refused(tiny_folder: Path, tmp_path: Path):
    convert(tiny_folder, tmp_path / "b.es2s", name="x", encoder="native")
    with pytest.raises(ExportError, match="expected an encoder for ONNX Runtime, found none"):
        restore(tmp_path / "b.es2s", tmp_path / "again")


def test_a_folder_that_exists_stays_as_it_is(tiny_bundle: Path, tmp_path: Path):
    with pytest.raises(FileExistsError, match="choose a new folder"):
        restore(tiny_bundle, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_mutant_is_restored_or_refused(tiny_bundle: Path, tmp_path: Path):
    """Of every mutant that is refused one sentence says why."""
    with ZipFile(tiny_bundle) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    path, said = tmp_path / "mutant.es2s", []
    for number in range(N_MUTANTS):
        path.write_bytes(mutate(files, number))
        try:
            restored(path)
        except (BundleError, ExportError) as error:
            said.append(str(error))
    assert len(said) > N_MUTANTS // 2
    assert all(said)


def test_a_graph_with_other_shapes_is_refused(tiny_bundle: Path, tiny_float_bundle: Path, tmp_path: Path):
    with ZipFile(tiny_bundle) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    convert(make_tiny_folder(tmp_path / "hf", num_layers=1), tmp_path / "one.es2s", name="x")
    files["encoder.onnx"] = contents(tmp_path / "one.es2s")["encoder.onnx"]
    (tmp_path / "mixed.es2s").write_bytes(sealed(files))
    with pytest.raises(ExportError, match="encoder layers: the bundle has 2, what comes back 1"):
        restored(tmp_path / "mixed.es2s")


def test_the_command_says_what_the_folder_cannot_hold(tiny_bundle: Path, tmp_path: Path, capsys):
    out = tmp_path / "hf"
    assert cli.main(["restore", str(tiny_bundle), "--out", str(out)]) == 0
    with open_bundle(tiny_bundle) as bundle:
        name = bundle.manifest.name
    assert capsys.readouterr().out == f"{out}: {name} 1.0.0, licence NOASSERTION, prefix 'tell: '\n"
    assert cli.main(["restore", str(tiny_bundle), "--out", str(out)]) == 1
    assert "choose a new folder" in capsys.readouterr().err


def test_convert_names_the_command_for_a_bundle(tiny_bundle: Path, tmp_path: Path):
    with pytest.raises(ExportError, match="edge-s2s-export restore makes a Hugging Face folder of it"):
        convert(tiny_bundle, tmp_path / "again.es2s")
