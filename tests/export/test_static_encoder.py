"""Static encoders do what transformers does, for every family, whatever the padding."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edge_s2s.onnx_graph import check_onnx
from edge_s2s.static_encoder import padded
from edge_s2s_export import families
from edge_s2s_export.model_spec import ModelSpec
from edge_s2s_export.static_encoder import quantize_graph, static_graph
from tiny_folders import soften
from tiny_models import ALL_KINDS, random_hf

LENGTH = 24
VARIANTS = ("static", "qnn-static")


def spec_of(kind: str, *, soft: bool = False) -> ModelSpec:
    model = random_hf(kind, seed=0)
    if soft:
        soften(model)
    return families.describe(model, None)


def graph_of(spec: ModelSpec, variant: str) -> onnx.ModelProto:
    return static_graph(spec.encoder_keys, spec.encoder_tensors, spec.keys, LENGTH, kind=variant)


def embeds(spec: ModelSpec, input_ids: list[int]) -> np.ndarray:
    table = spec.encoder.encoder.embed_tokens.weight.detach().float().numpy()
    return np.ascontiguousarray(table[input_ids])


def run(graph: bytes, spec: ModelSpec, input_ids: list[int]) -> np.ndarray:
    """Cross K/V [2 * n_layers, n_tokens, inner]."""
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    outputs = session.run(None, padded(embeds(spec, input_ids), LENGTH))
    return np.stack([output[0, : len(input_ids)] for output in outputs])


def reference(spec: ModelSpec, input_ids: list[int]) -> np.ndarray:
    cross_kv = spec.cross_kv(input_ids)  # [n_layers, 2, n_heads, n_tokens, d_head]
    n_layers, two, n_heads, n_tokens, d_head = cross_kv.shape
    return cross_kv.transpose(0, 1, 3, 2, 4).reshape(n_layers * two, n_tokens, n_heads * d_head)


def sources(spec: ModelSpec, n: int, seed: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    lengths = [1, LENGTH, *generator.integers(2, LENGTH, n)]
    return [generator.integers(0, spec.source_vocab_size, length).tolist() for length in lengths]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_padded_source_gives_what_transformers_gives_without_padding(kind: str, variant: str):
    spec = spec_of(kind)
    graph = graph_of(spec, variant).SerializeToString()
    for input_ids in sources(spec, 2, seed=1):
        expected = reference(spec, input_ids)
        # RMSNorm without its epsilon, and other sum orders.
        np.testing.assert_allclose(run(graph, spec, input_ids), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["t5-v1.1", "umt5", "bart", "marian", "m2m100", "pegasus-untied"])
def test_quantized_to_16_bits_each_token_keeps_its_keys_and_values(kind: str, variant: str):
    spec = spec_of(kind, soft=True)
    model = graph_of(spec, variant)
    feeds = [padded(embeds(spec, input_ids), LENGTH) for input_ids in sources(spec, 40, seed=1)]
    quantized = quantize_graph(model, feeds, kind=variant, scheme="a16w8")
    check_onnx(memoryview(quantized), "encoder.onnx")  # the runtime takes it
    cosines = []
    for input_ids in sources(spec, 4, seed=2):
        found, expected = run(quantized, spec, input_ids), reference(spec, input_ids)
        norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
        cosines.append(((found * expected).sum(axis=-1) / norms).ravel())
    every = np.concatenate(cosines)
    assert every.mean() >= 0.998
    # Products in the gated feed-forward of such a small random T5 make single tokens more sensitive.
    assert every.min() >= (0.95 if kind == "t5-v1.1" else 0.99)


def test_no_shape_is_left_open_and_no_number_is_infinite():
    spec = spec_of("t5-v1.1")
    model = graph_of(spec, "qnn-static")
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    assert len(values) > len(model.graph.node)
    assert all(dim.dim_value > 0 for value in values for dim in value.type.tensor_type.shape.dim)
    for tensor in model.graph.initializer:
        assert np.isfinite(onnx.numpy_helper.to_array(tensor)).all()


def test_the_same_sources_give_the_same_bytes():
    spec = spec_of("t5")
    model = graph_of(spec, "qnn-static")
    feeds = [padded(embeds(spec, input_ids), LENGTH) for input_ids in sources(spec, 2, seed=1)]
    first, second = (quantize_graph(model, feeds, kind="qnn-static", scheme="a16w8") for _ in range(2))
    assert first == second
