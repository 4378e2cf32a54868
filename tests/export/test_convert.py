"""Conversion from end to end, on tiny checkpoints made here."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import edge_s2s
from edge_s2s import BundleError
from edge_s2s import cli as runtime_cli
from edge_s2s._core import ffi, lib
from edge_s2s.bundle import open_bundle
from edge_s2s.decoder import DecoderModel
from edge_s2s.generation import GenerationOptions
from edge_s2s.manifest import GenerationDefaults, Languages
from edge_s2s_export import families
from edge_s2s_export.candidate import Candidate
from edge_s2s_export.convert import check_defaults, convert
from edge_s2s_export.errors import ExportError, GateError
from edge_s2s_export.golden import MIN_CASES, MIN_MARGIN, N_ROUNDINGS
from edge_s2s_export.probe_texts import probe_texts
from edge_s2s_export.reference_decoder import ReferenceDecoder
from tiny_bundle import tiny_keys, tiny_manifest
from tiny_folders import make_tiny_folder
from tiny_models import KINDS

PREFIX = "say: "
OTHER_FAMILIES = ["mt5", "umt5", "byt5", "bart", "mbart", "pegasus", "marian", "marian-separate", "m2m100"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_folder(tmp_path_factory.mktemp("hf") / "tiny")


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "tiny.es2s"
    convert(folder, out, prefix=PREFIX, licence="CC-BY-4.0", data=["our own words"], languages=["en", "fr"])
    return out


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"suppress_tokens": [3], "num_beams": 2}, "suppress_tokens"),
        ({"bad_words_ids": [[4, 5]], "do_sample": True, "top_p": 0.9}, "bad_words_ids, do_sample, top_p"),
        ({"num_beams": 2, "no_repeat_ngram_size": 3, "forced_eos_token_id": 1}, ""),
    ],
)
def test_a_native_bundle_has_no_default_that_the_core_alone_would_not_follow(
    folder: Path, tmp_path: Path, settings: dict[str, object], refused: str
):
    changed = shutil.copytree(folder, tmp_path / "hf")
    path = changed / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    out = tmp_path / "out.es2s"
    if refused:
        with pytest.raises(ExportError, match=f"no default for {refused}; remove it"):
            convert(changed, out, encoder="native")
        assert not out.exists()
        return
    convert(changed, out, encoder="native", texts=probe_texts(60))
    text = probe_texts(1)[0]
    with edge_s2s.load(out) as model:
        [[expected]] = model.generate([text])
    assert summarize_in_c(out, text) == expected.text


def test_a_native_bundle_has_no_default_target_language():
    keys = tiny_keys()
    languages = Languages(ids={"de": 3}, target_is_first_token=True, target="de")
    manifest = dataclasses.replace(
        tiny_manifest(keys), generation=GenerationDefaults.from_keys(keys), language_tokens=languages
    )
    with pytest.raises(ExportError, match="has no default for a target language"):
        check_defaults(manifest, keys)
    check_defaults(dataclasses.replace(manifest, language_tokens=Languages(ids={"de": 3})), keys)


def summarize_in_c(bundle: Path, text: str) -> str:
    model, n = ffi.new("es2s_model **"), ffi.new("size_t *")
    data, summary = text.encode(), ffi.new("char[]", 1 << 16)
    assert lib.es2s_model_load(os.fsencode(bundle), ffi.NULL, model) == lib.ES2S_OK
    assert lib.es2s_summarize(model[0], data, len(data), ffi.NULL, summary, len(summary), n) == lib.ES2S_OK
    lib.es2s_model_free(model[0])
    return bytes(ffi.buffer(summary, n[0])).decode()


def test_the_bundle_says_what_it_was_asked_to_say(bundle: Path):
    with open_bundle(bundle) as opened:
        manifest = opened.manifest
        licence = bytes(opened.read("LICENSE")).decode()
        card = bytes(opened.read("MODEL_CARD.md")).decode()
    assert (manifest.name, manifest.prefix, manifest.languages) == ("tiny", PREFIX, ("en", "fr"))
    assert manifest.special_tokens == edge_s2s.manifest.SpecialTokens(0, 1, 0, 2)
    assert (manifest.quantization.weights, manifest.quantization.head_rescore) == ("int8", 8)
    assert sorted(manifest.files) == sorted(
        [
            "encoder.onnx",
            "decoder.weights",
            "tokenizer.json",
            "golden.json",
            "eval.json",
            "LICENSE",
            "MODEL_CARD.md",
        ]
    )
    assert "CC-BY-4.0" in licence
    assert "our own words" in licence
    assert "# tiny 1.0.0" in card
    assert "CC-BY-4.0" in card


def test_eval_json_holds_what_the_report_says(folder: Path, tmp_path: Path):
    report = convert(folder, tmp_path / "b.es2s")
    with open_bundle(report.path) as opened:
        document = json.loads(bytes(opened.read("eval.json")))
    assert document["gates"].keys() == report.metrics.keys()
    for name, value in document["gates"].items():
        assert value == pytest.approx(report.metrics[name], rel=1e-3)
    assert 0.95 <= document["gates"]["int8_argmax_agreement"] <= 1
    assert document["versions"]["torch"] == torch.__version__


def test_golden_cases_have_their_margin_and_are_what_the_model_generates(bundle: Path):
    with open_bundle(bundle) as opened, edge_s2s.load(bundle) as model:
        cases = opened.golden()
        for case in cases:
            assert model.encode(case.text) == list(case.input_ids)
            [[generation]] = model.generate([case.text])
            assert generation.token_ids[: len(case.token_ids)] == case.token_ids
            # The margin once more, with the numpy decoder behind the runtime's encoder.
            parts = model._parts
            cross_kv = parts.encoder.run(parts.decoder.embed(case.input_ids)).cross_kv
            logits = ReferenceDecoder(opened.weights, cross_kv).feed([0, *case.token_ids[:-1]])
            second, best = np.sort(logits, axis=1)[:, -2:].T
            assert (best - second).min() > MIN_MARGIN - 0.01
    assert MIN_CASES <= len(cases) <= 16
    assert len({case.token_ids for case in cases}) > 1


def test_golden_cases_have_their_margin_under_every_rounding(bundle: Path):
    with open_bundle(bundle) as opened:
        files = {name: bytes(opened.read(name)) for name in opened.manifest.files}
        candidate, cases = Candidate(opened.manifest, files), opened.golden()
    for case in cases:
        for rounding in range(N_ROUNDINGS + 1):
            cross_kv = candidate.encode(case.input_ids, rounding=rounding)
            assert candidate.margins(cross_kv, case.token_ids).min() >= MIN_MARGIN


@pytest.mark.parametrize("kind", [*KINDS, *OTHER_FAMILIES])
def test_float32_bundles_generate_what_transformers_generates(kind: str, tmp_path: Path):
    folder = make_tiny_folder(tmp_path / "hf", seed=1, kind=kind)
    convert(folder, tmp_path / "b.es2s", dtype="float32", prefix=PREFIX)
    hf, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = probe_texts(48)[40:]  # others than the gates use
    with edge_s2s.load(tmp_path / "b.es2s") as model:
        for num_beams in (1, 3):
            ours = model.generate(texts, GenerationOptions(num_beams=num_beams))
            for text, [generation] in zip(texts, ours, strict=True):
                source = tokenizer(PREFIX + text, return_tensors="pt").input_ids
                expected = hf.generate(source, num_beams=num_beams)[0].tolist()[1:]
                assert list(generation.token_ids) == expected
                assert generation.text == tokenizer.decode(expected, skip_special_tokens=True)


def test_converting_twice_gives_the_same_bytes(folder: Path, bundle: Path, tmp_path: Path):
    again = tmp_path / "again.es2s"
    convert(folder, again, prefix=PREFIX, licence="CC-BY-4.0", data=["our own words"], languages=["en", "fr"])
    assert again.read_bytes() == bundle.read_bytes()


def test_smoothing_changes_the_weights_and_passes_the_gates(folder: Path, bundle: Path, tmp_path: Path):
    out = tmp_path / "smooth.es2s"
    convert(folder, out, prefix=PREFIX, smooth_quant=0.5)
    with open_bundle(bundle) as plain, open_bundle(out) as smooth:
        assert bytes(plain.read("decoder.weights")) != bytes(smooth.read("decoder.weights"))
    with pytest.raises(ExportError, match="expected a T5 model, found BartForConditionalGeneration"):
        convert(make_tiny_folder(tmp_path / "bart", kind="bart"), tmp_path / "bart.es2s", smooth_quant=0.5)


def test_a_float16_cache_passes_its_gate_and_takes_half_of_the_memory(
    folder: Path, bundle: Path, tmp_path: Path
):
    out = tmp_path / "narrow.es2s"
    report = convert(folder, out, prefix=PREFIX, kv_cache="float16")
    assert report.metrics["float16_kv_cache_argmax_agreement"] >= 0.985
    assert 0 < report.metrics["float16_kv_cache_kl_mean"] < 0.001
    with open_bundle(bundle) as plain, open_bundle(out) as narrow:
        assert narrow.weights.keys == {**plain.weights.keys, "kv_cache_dtype": "float16"}
        assert narrow.manifest.quantization.kv_cache == "float16"
        sizes = []
        for opened in (plain, narrow):
            decoder = DecoderModel(opened.read("decoder.weights"))
            sizes.append(decoder.session(1, 1, 32, 16).size_bytes)
        dims = decoder.dims
        n_tokens = 32 + 16  # of the source and new ones
        assert sizes[0] - sizes[1] == n_tokens * dims.n_layers * 2 * dims.n_heads * dims.d_head * 2
    with pytest.raises(ExportError, match="kv_cache: expected float32 with dtype float32, found float16"):
        convert(folder, tmp_path / "wide.es2s", dtype="float32", kv_cache="float16")


def test_a_float16_cache_that_cannot_hold_the_values_is_refused(folder: Path, tmp_path: Path):
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    with torch.no_grad():
        for block in model.decoder.block:  # the same function: what one matrix gives more, the other takes
            block.layer[1].EncDecAttention.v.weight *= 2**20
            block.layer[1].EncDecAttention.o.weight *= 2**-20
    model.save_pretrained(tmp_path / "hf")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "wide.es2s", prefix=PREFIX)
    with pytest.raises(GateError, match="kv_cache: with float16 the best token is the same in"):
        convert(tmp_path / "hf", tmp_path / "narrow.es2s", prefix=PREFIX, kv_cache="float16")
    assert not (tmp_path / "narrow.es2s").exists()


def test_a_directory_has_the_same_files_as_the_zip(folder: Path, bundle: Path, tmp_path: Path):
    convert(
        folder,
        tmp_path / "b",
        prefix=PREFIX,
        licence="CC-BY-4.0",
        data=["our own words"],
        languages=["en", "fr"],
    )
    with open_bundle(bundle) as one, open_bundle(tmp_path / "b") as other:
        assert one.manifest == other.manifest
        assert all(one.read(name) == other.read(name) for name in one.manifest.files)


def test_given_texts_become_the_golden_cases(folder: Path, tmp_path: Path):
    texts = [f"Call {i} at noon." for i in range(100)]
    convert(folder, tmp_path / "b.es2s", texts=texts)
    with open_bundle(tmp_path / "b.es2s") as opened:
        assert {case.text for case in opened.golden()} <= set(texts)


def test_an_existing_bundle_is_replaced_only_on_request(folder: Path, tmp_path: Path):
    out = tmp_path / "b.es2s"
    convert(folder, out, model_version="1.0.0")
    with pytest.raises(FileExistsError):
        convert(folder, out, model_version="2.0.0")
    convert(folder, out, model_version="2.0.0", replace=True)
    with open_bundle(out) as opened:
        assert opened.manifest.version == "2.0.0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_version": "2"}, "version: a version such as 1.0.0"),
        ({"name": "a name"}, "name: a name of"),
        ({"licence": ""}, r"licence\.weights: 1\.\.500 printable characters"),
        ({"out": "missing/b.es2s"}, "expected a folder to write it to"),
    ],
)
def test_arguments_that_no_bundle_can_hold_are_refused_before_the_work(
    folder: Path, tmp_path: Path, arguments: dict[str, str], message: str
):
    steps = []
    out = tmp_path / arguments.pop("out", "b.es2s")
    with pytest.raises((BundleError, ExportError), match=message):
        convert(folder, out, **arguments, on_step=lambda step, _seconds: steps.append(step))
    assert steps in ([], ["load the checkpoint"])


@pytest.mark.parametrize(
    "settings",
    [{"do_sample": True, "top_k": 9}, {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}],
    ids=["samples", "groups"],
)
def test_a_checkpoint_that_does_not_search_greedily_by_default_converts_and_verifies(
    folder: Path, tmp_path: Path, settings: dict[str, object]
):
    changed = shutil.copytree(folder, tmp_path / "hf")
    path = changed / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    out = tmp_path / "out.es2s"
    convert(changed, out)
    with open_bundle(out) as bundle:
        assert settings.items() <= dataclasses.asdict(bundle.manifest.generation).items()
    assert runtime_cli.main(["verify", str(out)]) == 0


def test_bfloat16_checkpoints_convert(tmp_path: Path):
    folder = make_tiny_folder(tmp_path / "hf", seed=2)
    AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    convert(folder, tmp_path / "b.es2s", dtype="float32")
    table = AutoModelForSeq2SeqLM.from_pretrained(folder).shared.weight.float().detach().numpy()
    with open_bundle(tmp_path / "b.es2s") as opened:
        np.testing.assert_array_equal(opened.weights.tensors["embedding.weight"], table)


def corrupt(monkeypatch: pytest.MonkeyPatch, change) -> None:
    """Lets `change` alter what the family says about the model, as a mistake in its code would."""
    describe = families.FAMILIES["t5"]
    monkeypatch.setitem(families.FAMILIES, "t5", lambda model, tokenizer: change(describe(model, tokenizer)))


@pytest.mark.parametrize(
    ("tensor", "named"),
    [
        ("embedding.weight", "encoder: cross-attention K of decoder layer 0"),  # which reads the same table
        ("layers.0.self_attn.qkv.weight", "decoder layer 0"),
        ("layers.1.cross_attn.q.weight", "decoder layer 1"),
        ("layers.1.ffn.down.weight", "decoder layer 1"),
        ("position_bias", "decoder layer 0"),
        ("final_norm.weight", "final norm or output head"),
    ],
)
def test_a_wrong_tensor_fails_the_gate_which_names_its_place(
    tensor: str, named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def negate_a_part(spec):
        wrong = spec.tensors[tensor].copy()
        wrong[len(wrong) // 2 :] *= -1
        return dataclasses.replace(spec, tensors={**spec.tensors, tensor: wrong})

    folder = make_tiny_folder(tmp_path / "hf", num_layers=2, num_decoder_layers=2)
    corrupt(monkeypatch, negate_a_part)
    (tmp_path / "out").mkdir()
    with pytest.raises(GateError, match=f"^{re.escape(named)}.*limit"):
        convert(folder, tmp_path / "out" / "b.es2s")
    assert not list((tmp_path / "out").iterdir())


def test_swapped_cross_attention_layers_fail_the_gate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Graph and torch agree on a wrong encoder, but the decoder then gives other logits than transformers."""

    def swap(spec):
        first_k, first_v, *rest = spec.encoder.projections
        spec.encoder.projections = torch.nn.ModuleList([*rest, first_k, first_v])
        return spec

    folder = make_tiny_folder(tmp_path / "hf", num_layers=2, num_decoder_layers=2)
    corrupt(monkeypatch, swap)
    with pytest.raises(GateError, match=r"^decoder layer 0"):
        convert(folder, tmp_path / "b.es2s")
    assert not (tmp_path / "b.es2s").exists()


def test_wrong_generation_defaults_fail_the_gate(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
):
    def forbid_most_tokens(spec):
        forbidden = tuple(range(2, spec.keys["vocab_size"] - 5))
        return dataclasses.replace(
            spec, generation=dataclasses.replace(spec.generation, suppress_tokens=forbidden)
        )

    corrupt(monkeypatch, forbid_most_tokens)
    with pytest.raises(GateError, match=r"^float: greedy search agrees with transformers in"):
        convert(folder, tmp_path / "b.es2s")
    assert not list(tmp_path.iterdir())


def test_quantization_that_ruins_the_model_fails_the_gate(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
):
    from edge_s2s_export import convert as module

    def three_bits(tensors, matrices):
        coarse = dict(tensors)
        for name in matrices:
            scale = np.abs(tensors[name]).max(axis=1) / 3
            coarse[name] = np.rint(tensors[name] / scale[:, None]).astype(np.int8)
            coarse[f"{name}_scale"] = scale.astype(np.float32)
        return coarse

    monkeypatch.setattr(module, "quantize_tensors", three_bits)
    with pytest.raises(GateError, match=r"^encoder: int8|^int8:"):
        convert(folder, tmp_path / "b.es2s")
    assert not list(tmp_path.iterdir())


def test_texts_without_clear_winners_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(GateError, match=r"golden cases: .* expected at least 8"):
        convert(folder, tmp_path / "b.es2s", texts=probe_texts(5))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("texts", "found"), [([], "none"), (["fine", "word " * 2000], r"\d{4,}: 'word")])
def test_no_texts_and_too_long_ones_are_refused(folder: Path, tmp_path: Path, texts: list[str], found: str):
    with pytest.raises(ExportError, match=f"texts: expected .* found {found}"):
        convert(folder, tmp_path / "b.es2s", texts=texts)


def test_an_unknown_family_is_refused_before_its_weights_are_read(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "led"}')
    known = ", ".join(sorted(families.FAMILIES))
    with pytest.raises(ExportError, match=f"model_type 'led' is unknown; known: {known}"):
        convert(tmp_path, tmp_path / "b.es2s")


def test_a_missing_folder_and_a_missing_tokenizer_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(ExportError, match=r"nowhere: expected a Hugging Face folder"):
        convert(tmp_path / "nowhere", tmp_path / "b.es2s")
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    for file in bare.glob("*token*"):
        file.unlink()
    with pytest.raises(ExportError, match="tokenizer"):
        convert(bare, tmp_path / "b.es2s")
    assert not (tmp_path / "b.es2s").exists()
