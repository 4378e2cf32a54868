"""A static encoder runs whole on the provider that was asked for, and gives what the CPU's encoder gives."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import edge_s2s
from accelerators import skip_without_hardware
from edge_s2s import BundleError, GenerationOptions, InputTooLongError, ProviderError, Seq2SeqModel
from edge_s2s.bundle import open_bundle, write_bundle
from edge_s2s.context_cache import FOLDER_SUFFIX
from edge_s2s.devices import find_device
from edge_s2s.errors import EdgeS2SError
from edge_s2s.manifest import Dimensions, Encoder
from edge_s2s.providers import PROVIDERS
from edge_s2s.static_encoder import _open, output_names, padded, unpadded
from edge_s2s_export import families
from edge_s2s_export.probe_texts import probe_texts
from edge_s2s_export.static_encoder import quantize_graph, static_graph
from edge_s2s_export.static_variant import add_static_encoders
from tiny_folders import soften
from tiny_models import random_hf

BUCKETS = (32, 64)
PLUGINS = ("openvino", "qnn")
EP_NAMES = {name: PROVIDERS[name].ep_name for name in PLUGINS}
TEXTS = ["Tom said hi.", "Anna is in Paris until Friday."]


@pytest.fixture(scope="session")
def static_bundle(tiny_folder: Path, tiny_bundle: Path) -> Path:
    """The tiny int8 bundle with static encoders."""
    path = tiny_folder.parent / "static.es2s"
    add_static_encoders(tiny_folder, tiny_bundle, path, buckets=BUCKETS)
    return path


@pytest.fixture(scope="module", params=PLUGINS)
def provider(request: pytest.FixtureRequest) -> str:
    """A provider that runs on any PC, each in turn."""
    name: str = request.param
    plugin = PROVIDERS[name].plugin
    assert plugin is not None
    pytest.importorskip(plugin, reason=f"pip install 'edge_s2s[{name}]' is for Linux on x86-64")
    skip_without_hardware(name)
    return name


@pytest.fixture(scope="module")
def static_model(static_bundle: Path, provider: str, tmp_path_factory) -> Iterator[Seq2SeqModel]:
    contexts = tmp_path_factory.mktemp(provider)
    with edge_s2s.load(static_bundle, providers=[provider], context_cache=contexts) as model:
        yield model


def cross_kv(model: Seq2SeqModel, input_ids: list[int]) -> np.ndarray:
    parts = model._parts
    assert parts.encoder is not None
    return parts.encoder.cross_kv(parts.decoder.embed(input_ids))


def changed(bundle: Path, path: Path, change: Callable[[onnx.GraphProto], None], kind: str) -> Path:
    """A bundle with another graph for the shortest sources."""
    with open_bundle(bundle) as opened:
        files = {name: bytes(opened.read(name)) for name in opened.manifest.files}
        manifest = opened.manifest
    name = f"encoder.{kind}-{BUCKETS[0]}.onnx"
    graph = onnx.load_from_string(files[name])
    change(graph.graph)
    files[name] = graph.SerializeToString()
    write_bundle(path, manifest, files)
    return path


@pytest.mark.parametrize("n_tokens", [1, 31, 32, 33, 64])
def test_a_source_of_any_length_gets_the_keys_and_values_of_the_cpus_encoder(
    static_model: Seq2SeqModel, model: Seq2SeqModel, n_tokens: int
):
    input_ids = (model.encode(TEXTS[1]) * 4)[:n_tokens]
    found, expected = cross_kv(static_model, input_ids), cross_kv(model, input_ids)
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    x, y = (a.swapaxes(2, 3).reshape(*a.shape[:2], n_tokens, -1) for a in (found, expected))
    cosine = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
    assert cosine.min() > 0.98  # w8a16 with one scale for each tensor against int8 with one for each token
    assert cosine.mean() > 0.99


@pytest.mark.parametrize("kind", ["t5", "umt5", "bart", "mbart", "pegasus", "marian", "m2m100"])
def test_other_families_keep_each_tokens_keys_and_values_against_float32(provider: str, kind: str):
    length = 32
    hf = random_hf(kind, seed=0)
    soften(hf)
    spec = families.describe(hf, None)
    dims = Dimensions.from_keys(spec.keys, n_encoder_layers=spec.n_encoder_layers)
    variant = PROVIDERS[provider].encoder_kinds[0]
    table = spec.encoder.encoder.embed_tokens.weight.detach().numpy()
    generator = np.random.default_rng(0)
    sources = [table[generator.integers(0, len(table), n)] for n in generator.integers(1, length + 1, 40)]
    model = static_graph(spec.encoder_keys, spec.encoder_tensors, spec.keys, length, kind=variant)
    feeds = [padded(embeds, length) for embeds in sources]
    graph = quantize_graph(model, feeds[4:], kind=variant, scheme="a16w8")
    session = _open(graph, "encoder.onnx", find_device(PROVIDERS[provider], {}), 1)
    for embeds, feed in zip(sources[:4], feeds[:4], strict=True):
        found = unpadded(session.run(output_names(dims), feed), len(embeds), dims)
        x, y = (
            a.swapaxes(2, 3).reshape(-1, a.shape[2] * a.shape[4])
            for a in (found, spec.cross_kv_of_embeds(embeds))
        )
        assert ((x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)).min() >= 0.99


def test_the_provider_runs_all_of_it_and_results_say_so(
    static_model: Seq2SeqModel, provider: str, model: Seq2SeqModel
):
    results = zip(static_model.generate(TEXTS), model.generate(TEXTS), strict=True)
    for [generation], [expected] in results:
        assert generation.stats.providers == (EP_NAMES[provider],)
        assert generation.stats.fallback == ""
        assert generation.token_ids[0] == expected.token_ids[0]
    assert static_model.max_source_len == BUCKETS[-1] < model.max_source_len


def test_what_is_longer_than_the_longest_bucket_is_cut_into_chunks_or_refused(static_model: Seq2SeqModel):
    document = "\n".join(f"Anna: I have {n} apples, and you?" for n in range(30))
    with pytest.raises(InputTooLongError, match=f"more than the {BUCKETS[-1]} tokens"):
        static_model.generate([document])
    [[cut]] = static_model.generate([document], truncation=True)
    assert cut.truncated
    summary = static_model.summarize(document, GenerationOptions(checks=()))
    assert summary.stats.n_chunks > 2
    assert summary.stats.source_tokens > BUCKETS[-1]


def test_threads_share_it(static_model: Seq2SeqModel):
    expected = [[g.text for [g] in static_model.generate(TEXTS)]] * 8
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda _i: [g.text for [g] in static_model.generate(TEXTS)], range(8))]
    assert found == expected


def add_refused_node(graph: onnx.GraphProto) -> None:
    """An operator that our own check lets through, and QNN does not have."""
    name = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["before" if output == name else output for output in node.output]
        node.input[:] = ["before" if output == name else output for output in node.input]
    graph.node.append(helper.make_node("Erf", ["before"], [name], "the_odd_one"))


def test_a_refused_node_is_an_error_with_its_name_or_a_reported_fallback(static_bundle: Path, tmp_path: Path):
    pytest.importorskip("onnxruntime_qnn", reason="pip install 'edge_s2s[qnn]' is for Linux on x86-64")
    bundle = changed(static_bundle, tmp_path / "odd.es2s", add_refused_node, "qnn-static")
    with pytest.raises(
        ProviderError, match=r"qnn: .* all of encoder.qnn-static-32.onnx; it refuses Erf 'the_odd_one'$"
    ):
        edge_s2s.load(bundle, providers=["qnn"])
    with edge_s2s.load(bundle, providers=["qnn"], fallback="cpu") as model:
        [[generation]] = model.generate(TEXTS[:1])
    assert generation.stats.providers == ("CPUExecutionProvider",)
    assert "the_odd_one" in generation.stats.fallback


def test_a_bundle_without_static_encoders_is_an_error_with_the_command_that_adds_them(tiny_bundle: Path):
    with pytest.raises(
        ProviderError, match=r"of kind static or qnn-static .* found onnx; edge-s2s-export static"
    ):
        edge_s2s.load(tiny_bundle, providers=["openvino"])
    with edge_s2s.load(tiny_bundle, providers=["openvino"], fallback="cpu") as model:
        [[generation]] = model.generate(TEXTS[:1])
    assert "edge-s2s-export static" in generation.stats.fallback


def test_the_cpu_runs_a_bundle_with_static_encoders_as_before(static_bundle: Path, model: Seq2SeqModel):
    with edge_s2s.load(static_bundle, num_threads=2) as same:
        assert [g[0].text for g in same.generate(TEXTS)] == [g[0].text for g in model.generate(TEXTS)]
        assert same.max_source_len == model.max_source_len


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fallback": "cpu"}, "fallback: expected 'cpu' and an accelerator"),
        ({"fallback": "gpu", "providers": ["qnn"]}, "fallback: expected 'cpu' .* found 'gpu'"),
        ({"encoder": "onnx", "providers": ["qnn"]}, "encoder: expected none with an accelerator"),
    ],
)
def test_arguments_that_do_not_go_together_are_a_value_error(static_bundle: Path, arguments, message: str):
    with pytest.raises(ValueError, match=message):
        edge_s2s.load(static_bundle, **arguments)


def rename_output(graph: onnx.GraphProto) -> None:
    name = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["other" if output == name else output for output in node.output]
    graph.output[0].name = "other"


def open_length(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.shape.dim[1].dim_param = "length"


def add_loop(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("Loop", [], ["never"]))


@pytest.mark.parametrize(
    ("change", "error"),
    [(rename_output, BundleError), (open_length, EdgeS2SError), (add_loop, BundleError)],
)
def test_a_graph_of_another_form_is_an_error_of_ours(static_bundle, provider, tmp_path, change, error):
    kind = PROVIDERS[provider].encoder_kinds[0]
    bundle = changed(static_bundle, tmp_path / "other.es2s", change, kind)
    with pytest.raises(error, match=f"encoder.{kind}-32.onnx"):
        edge_s2s.load(bundle, providers=[provider], context_cache=tmp_path)


def test_the_command_line_prints_results_alone(static_bundle: Path, provider: str):
    """Qualcomm's emulator has something to say on standard output."""
    command = [sys.executable, "-m", "edge_s2s", "summarize", "-", "--bundle", static_bundle, "--json"]
    run = [*command, "--provider", provider]
    done = subprocess.run(run, input=TEXTS[0], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["stats"]["providers"] == [EP_NAMES[provider]]


def test_verify_looks_at_static_encoders_too(static_bundle: Path, tmp_path: Path):
    command = [sys.executable, "-m", "edge_s2s", "verify"]
    good = subprocess.run([*command, static_bundle], capture_output=True, text=True, check=True)
    assert "✓ static encoders: 4 graphs" in good.stdout
    bad = changed(static_bundle, tmp_path / "loop.es2s", add_loop, "static")
    found = subprocess.run([*command, bad], capture_output=True, text=True)
    assert found.returncode == 1
    assert "✗ static encoders: encoder.static-32.onnx: expected operators" in found.stdout


def test_two_graphs_of_one_length_are_a_bundle_error(static_bundle: Path, provider: str, tmp_path: Path):
    with open_bundle(static_bundle) as opened:
        files = {name: bytes(opened.read(name)) for name in opened.manifest.files}
        kind = PROVIDERS[provider].encoder_kinds[0]
        twice = replace(opened.manifest, encoders=(*opened.manifest.encoders, Encoder(kind, "again.onnx")))
    files["again.onnx"] = files[f"encoder.{kind}-32.onnx"]
    write_bundle(tmp_path / "twice.es2s", twice, files)
    with pytest.raises(BundleError, match="a graph for each length, found 32, 32, 64"):
        edge_s2s.load(tmp_path / "twice.es2s", providers=[provider], context_cache=tmp_path)


def test_contexts_lie_beside_the_bundle_and_are_rebuilt_when_they_are_damaged(
    static_bundle: Path, provider: str, tmp_path: Path
):
    bundle = tmp_path / "model.es2s"
    os.link(static_bundle, bundle)

    def answer() -> str:
        with edge_s2s.load(bundle, providers=[provider]) as model:
            [[generation]] = model.generate(TEXTS[:1])
        return generation.text

    expected = answer()
    folder = tmp_path / f"model.es2s{FOLDER_SUFFIX}"
    files = sorted(folder.iterdir())
    assert len(files) == len(BUCKETS)

    def written() -> list[tuple[int, int]]:
        return [(file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(folder.iterdir())]

    times = written()
    assert answer() == expected
    assert written() == times  # they were used as they are
    files[0].write_bytes(files[0].read_bytes()[:1000])
    files[1].write_bytes(b"")
    assert answer() == expected
    rebuilt = written()
    assert min(size for _, size in rebuilt) > 1000
    assert answer() == expected
    assert written() == rebuilt


def test_a_folder_that_cannot_be_written_to_costs_only_time_unless_it_was_asked_for(
    static_bundle: Path, provider: str, tmp_path: Path
):
    bundle = tmp_path / "model.es2s"
    os.link(static_bundle, bundle)
    blocked = tmp_path / f"model.es2s{FOLDER_SUFFIX}"
    blocked.write_text("a file in the folder's place")
    with edge_s2s.load(bundle, providers=[provider]) as model:
        assert model.generate(TEXTS[:1])
    with pytest.raises(OSError, match=blocked.name):
        edge_s2s.load(bundle, providers=[provider], context_cache=blocked)


FORK = """
import gc, os, sys, edge_s2s
model = edge_s2s.load(sys.argv[1], providers=[sys.argv[2]], context_cache=sys.argv[3])
[[before]] = model.generate(["Tom said hi."])
if (child := os.fork()) == 0:
    try:
        model.generate(["Tom said hi."])
    except RuntimeError as error:
        del model
        gc.collect()
        os._exit(7 if "load it in this process" in str(error) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
[[after]] = model.generate(["Tom said hi."])
assert after.token_ids == before.token_ids
"""


def test_a_forked_process_says_what_to_do_and_ends(static_bundle: Path, provider: str, tmp_path: Path):
    run = [sys.executable, "-c", FORK, str(static_bundle), provider, str(tmp_path)]
    subprocess.run(run, check=True, timeout=200)


CYCLES = """
import gc, sys, edge_s2s
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
sizes = []
for cycle in range(50):
    with edge_s2s.load(sys.argv[1], providers=[sys.argv[2]], context_cache=sys.argv[3]) as model:
        model.generate(["Tom said hi."])
    del model
    gc.collect()
    sizes.append(rss())
print(f"\\nRSS {sizes[9]} {sizes[-1]}")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads a process's size from /proc")
def test_fifty_loads_and_unloads_do_not_grow(static_bundle: Path, provider: str, tmp_path: Path):
    run = [sys.executable, "-c", CYCLES, str(static_bundle), provider, str(tmp_path)]
    answer = subprocess.run(run, capture_output=True, text=True, check=True, timeout=300).stdout
    [sizes] = re.findall(r"^RSS (\S+) (\S+)$", answer, flags=re.MULTILINE)  # libraries print, too
    after_10, after_50 = map(float, sizes)
    assert after_50 < after_10 + 20, "MB"


def test_the_plugins_are_there_where_the_tests_extra_installs_them():
    if sys.platform == "linux" and os.uname().machine == "x86_64":
        for name in PLUGINS:
            importlib.import_module(str(PROVIDERS[name].plugin))


def test_the_bench_puts_an_accelerator_beside_the_cpu(static_bundle: Path, provider: str, tmp_path: Path):
    data, out = tmp_path / "data", tmp_path / "providers.json"
    (data / "dialogsum").mkdir(parents=True)
    rows = [{"id": str(i), "source": text, "target": text} for i, text in enumerate(probe_texts(3))]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (data / "dialogsum" / "valid.jsonl").write_text(lines, encoding="utf-8")
    command = [sys.executable, "-m", "bench", "run", "--providers", static_bundle, provider, "--rows", "2"]
    where = {**os.environ, "EDGE_S2S_DATA": str(data), "PYTHONSAFEPATH": "1", "PYTHONPATH": str(tmp_path)}
    (tmp_path / "bench").symlink_to(Path(__file__).parents[1] / "bench")
    subprocess.run([*command, "--out", out], cwd=tmp_path, env=where, check=True, capture_output=True)
    [found] = json.loads(out.read_text(encoding="utf-8"))["providers"].values()
    assert found["dialogues"] == 2
    assert {*found["encoder_ms_median"]} == {"cpu", provider}
    assert {*found["rouge"]} == {"rouge1", "rouge2", "rougeL"}
