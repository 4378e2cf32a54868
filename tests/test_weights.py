import hashlib
import math
import re
import struct
import time
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from edge_s2s import weights
from edge_s2s.decoder import DecoderModel
from edge_s2s.errors import BundleError
from edge_s2s.weights import complete_keys, expected_tensors, read_weights, write_weights
from tiny_bundle import tiny_keys, tiny_tensors

GOLDEN = Path(__file__).parent / "golden" / "tiny.weights"
KINDS = {
    "int8, gated, tied": {},
    "int8, plain, untied": {"ffn": "relu", "tied_lm_head": 0},
    "int8, bias per layer": {"position_bias_per_layer": 1},
    "float32": {"weights_dtype": "float32", "head_rescore": 0},
    "layer norm, biases": {
        "norm": "layer", "linear_bias": 1, "embedding_norm": 1, "final_norm": 0, "final_logits_bias": 1,
        "position": "table", "source_vocab_size": 9, "kv_cache_dtype": "float16",
    },
    "one of everything": {
        "vocab_size": 2, "d_model": 1, "d_ff": 1, "n_layers": 1, "n_heads": 1, "d_head": 1,
        "head_rescore": 1, "max_target_len": 1, "generation_max_new_tokens": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_read(kind):
    keys = tiny_keys(**KINDS[kind])
    tensors = tiny_tensors(keys)
    read = read_weights(write_weights(keys, tensors))
    keys = complete_keys(keys)
    assert read.keys == keys
    assert {name: type(value) for name, value in read.keys.items()} == {n: type(v) for n, v in keys.items()}
    assert read.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read.tensors[name], tensor, strict=True)


def test_golden_file_is_what_the_writer_writes():
    keys = tiny_keys()
    assert GOLDEN.read_bytes() == write_weights(keys, tiny_tensors(keys))


def test_golden_file_has_the_layout_of_the_docstring():
    """Walks the file with offsets counted by hand."""
    data = GOLDEN.read_bytes()
    magic, major, minor, n_keys, n_tensors, file_size, digest = struct.unpack("<8sIIIIQ32s", data[:64])
    assert (magic, major, minor, file_size) == (b"es2swts\0", 1, 0, len(data))
    assert digest == hashlib.sha256(data[64:]).digest()
    keys = {}
    for entry in (data[64 + 256 * i : 64 + 256 * (i + 1)] for i in range(n_keys)):
        name, kind, length = entry[:48].rstrip(b"\0").decode(), *struct.unpack("<II", entry[48:56])
        value = entry[56 : 56 + length]
        keys[name] = value.decode() if kind == 3 else struct.unpack("<q" if kind == 1 else "<d", value)[0]
    assert keys == tiny_keys()
    assert list(keys) == sorted(keys)

    table, end, names = 64 + 256 * n_keys, 64 + 256 * n_keys + 128 * n_tensors, []
    for entry in (data[table + 128 * i : table + 128 * (i + 1)] for i in range(n_tensors)):
        names.append(entry[:64].rstrip(b"\0").decode())
        dtype, n_dims, *dims, offset, size = struct.unpack("<IIQQQQQQ", entry[64:120])
        assert offset == math.ceil(end / 64) * 64
        assert size == math.prod(dims[:n_dims]) * (4 if dtype == 1 else 1)
        assert dims[n_dims:] == [0] * (4 - n_dims)
        end = offset + size
        expected = tiny_tensors(tiny_keys())[names[-1]]
        assert data[offset:end] == expected.tobytes()
    assert names == sorted(expected_tensors(tiny_keys()))
    assert len(data) == math.ceil(end / 64) * 64


def test_bytes_depend_on_the_content_alone():
    keys = tiny_keys()
    tensors = tiny_tensors(keys)
    reordered = write_weights(dict(reversed(keys.items())), dict(reversed(tensors.items())))
    columns_first = {name: np.asfortranarray(tensor) for name, tensor in tensors.items()}
    assert reordered == write_weights(keys, tensors) == write_weights(keys, columns_first)


def test_tensors_are_read_only_views_of_the_buffer():
    data = bytearray(GOLDEN.read_bytes())
    tensor = read_weights(data).tensors["embedding.weight"]
    assert not tensor.flags.writeable
    assert np.shares_memory(tensor, np.frombuffer(data, np.uint8))


def test_a_buffer_at_an_odd_address_reads_the_same():
    shifted = memoryview(b"x" + GOLDEN.read_bytes())[1:]
    np.testing.assert_array_equal(
        read_weights(shifted).tensors["position_bias"], tiny_tensors(tiny_keys())["position_bias"]
    )


def test_extension_keys_are_kept_and_ignored():
    keys = {**tiny_keys(), "ext.future": "anything", "ext.n": 7}
    assert read_weights(write_weights(keys, tiny_tensors(tiny_keys()))).keys == complete_keys(keys)


@pytest.mark.parametrize("name", [*weights.INT_KEYS, *weights.FLOAT_KEYS])
def test_every_number_is_checked_at_both_ends_of_its_range(name):
    low, high = {**weights.INT_KEYS, **weights.FLOAT_KEYS}[name]
    step = 1 if name in weights.INT_KEYS else 1e-9
    assert type(low) is type(high)
    for outside in (low - step, high + high * step if isinstance(high, float) else high + step):
        if outside < low and name == "norm_eps":
            outside = 0.0
        with pytest.raises(BundleError, match=re.escape(f'key "{name}": {low}..{high}')):
            write_weights({**tiny_keys(), name: outside}, tiny_tensors(tiny_keys()))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", weights.FLOAT_KEYS)
def test_numbers_are_finite(name, value):
    with pytest.raises(BundleError, match=re.escape(f'key "{name}"')):
        write_weights({**tiny_keys(), name: value}, tiny_tensors(tiny_keys()))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"eos_token_id": 20}, "eos_token_id"),
        ({"generation_forced_bos_token_id": 20}, "generation.forced_bos_token_id"),
        ({"head_rescore": 21}, "head_rescore"),
        ({"weights_dtype": "float32"}, "head_rescore"),
        ({"generation_max_new_tokens": 17}, "generation.max_new_tokens"),
        ({"generation_min_new_tokens": 13}, "generation.min_new_tokens"),
        ({"generation_num_return_sequences": 5}, "generation.num_return_sequences"),
        ({"n_heads": 1024, "d_head": 65}, "d_head"),
        ({"position": "table", "position_bias_per_layer": 1}, "position_bias_per_layer"),
        ({"ffn": "swish"}, "ffn"),
        ({"weights_dtype": "int4"}, "weights_dtype"),
        ({"prefix": 3}, "prefix"),
        ({"d_model": "8"}, "d_model"),
        ({"d_model": 8.0}, "d_model"),
        ({"norm_eps": 0}, "norm_eps"),
    ],
)
def test_keys_that_contradict_each_other_or_their_type_are_refused(changes, name):
    with pytest.raises(BundleError, match=re.escape(f'key "{name}"')):
        write_weights(tiny_keys(**changes), tiny_tensors(tiny_keys()))


def with_minor(data: bytes, minor: int) -> bytes:
    return data[:12] + struct.pack("<I", minor) + data[16:]


def test_an_optional_key_raises_the_minor_version_and_its_default_is_not_written():
    keys = tiny_keys(source_vocab_size=9)
    data = write_weights(keys, tiny_tensors(keys))
    assert struct.unpack_from("<2I", data, 8) == (1, 1)
    assert read_weights(data).keys == complete_keys(keys)
    without = tiny_keys(source_vocab_size=0, kv_cache_dtype="float32")
    assert write_weights(without, tiny_tensors(without)) == GOLDEN.read_bytes()
    assert read_weights(GOLDEN.read_bytes()).keys == without


def load_in_c(data: bytes) -> None:
    DecoderModel(data)


@pytest.mark.parametrize("load", [read_weights, load_in_c])
def test_one_content_has_one_minor_version(load):
    keys = tiny_keys(source_vocab_size=9)
    data = write_weights(keys, tiny_tensors(keys))
    load(data)
    default = data.replace(struct.pack("<q", 9).ljust(200, b"\0"), bytes(200))
    narrow = write_weights(keys := tiny_keys(kv_cache_dtype="float16"), tiny_tensors(keys))
    load(narrow)
    narrow_default = narrow.replace(b"float16", b"float32")
    for before, after in ((data, default), (narrow, narrow_default)):
        assert before != after
    sealed = [d[:32] + hashlib.sha256(d[64:]).digest() + d[64:] for d in (default, narrow_default)]
    minors = (data, 0), (GOLDEN.read_bytes(), 1), (data, 2), (narrow, 0)
    for wrong in (*sealed, *(with_minor(d, minor) for d, minor in minors)):
        with pytest.raises(BundleError, match=r"minor version|newer|default|one more"):
            load(wrong)


@pytest.mark.parametrize("load", [read_weights, load_in_c])
@pytest.mark.parametrize("n_rows", [15, 16, 17, 65536, 65537])
def test_a_position_table_has_a_row_for_every_position(load, n_rows, monkeypatch):
    keys = tiny_keys(position="table")
    tensors = tiny_tensors(keys, n_positions=n_rows)
    monkeypatch.setattr(weights, "read_weights", lambda _data: None)  # writes what the readers refuse
    data = write_weights(keys, tensors)
    if 16 <= n_rows <= 65536:
        load(data)
    else:
        with pytest.raises(BundleError, match=r"position_embedding\.weight"):
            load(data)


@pytest.mark.parametrize("name", tiny_keys())
def test_every_key_is_required(name):
    keys = tiny_keys()
    del keys[name]
    with pytest.raises(BundleError, match=re.escape(f'expected key "{name}", found no such key')):
        write_weights(keys, tiny_tensors(tiny_keys()))


@pytest.mark.parametrize("name", expected_tensors(tiny_keys()))
def test_every_tensor_is_required_in_its_shape_and_dtype(name):
    keys, tensors = tiny_keys(), tiny_tensors(tiny_keys())
    original = tensors[name]
    n_rows = len(original)
    tensors[name] = np.concatenate([original, original])
    with pytest.raises(BundleError, match=rf'tensor "{name}": expected .*\[{n_rows}.*found .*\[{2 * n_rows}'):
        write_weights(keys, tensors)
    tensors[name] = original.astype(np.float32 if original.dtype == np.int8 else np.int8)
    with pytest.raises(BundleError, match=f'tensor "{name}": expected {original.dtype}'):
        write_weights(keys, tensors)
    del tensors[name]
    with pytest.raises(
        BundleError, match=f'tensor "{name}": expected {original.dtype}.*found no such tensor'
    ):
        write_weights(keys, tensors)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("embedding.weight", -128, r"values in \[-127, 127\]"),
        ("embedding.weight_scale", -0.5, "scales >= 0"),
        ("embedding.weight_scale", math.nan, "finite"),
        ("final_norm.weight", math.inf, "finite"),
        ("position_bias", -math.inf, "finite"),
    ],
)
def test_one_bad_value_anywhere_is_found(name, value, expected):
    keys = tiny_keys()
    for index in (0, 3, -1):
        tensors = tiny_tensors(keys)
        tensors[name].reshape(-1)[index] = value
        with pytest.raises(BundleError, match=f'tensor "{name}": expected {expected}'):
            write_weights(keys, tensors)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("a", np.zeros(3, np.float64)),
        ("a", np.float32(1)),
        ("a", np.zeros((1,) * 5, np.int8)),
        ("a" * 64, np.zeros(1, np.int8)),
    ],
)
def test_a_tensor_that_the_table_cannot_hold_is_refused(name, tensor):
    keys = tiny_keys()
    with pytest.raises(BundleError):
        write_weights(keys, {**tiny_tensors(keys), name: tensor})


@pytest.mark.parametrize("value", ["x" * 201, "é" * 101, 1 << 63, True, None])
def test_a_value_that_the_table_cannot_hold_is_refused(value):
    keys = tiny_keys()
    with pytest.raises(BundleError, match='key "prefix"'):
        write_weights({**keys, "prefix": value}, tiny_tensors(keys))


def test_docstring_names_every_key_and_its_range():
    text = " ".join((weights.__doc__ or "").split())
    for name in {**weights.INT_KEYS, **weights.FLOAT_KEYS, **weights.STRING_KEYS}:
        assert name.removeprefix("generation.") in text, name
    for name, bound in {"d_model": "65536", "d_ff": "131072", "n_layers": "256", "d_head": "1024"}.items():
        assert f"{name} 1..{bound}" in text
        assert weights.INT_KEYS[name] == (1, int(bound))


def test_checking_sixty_megabytes_costs_little_more_than_hashing_them():
    """The fastest of 7, as a busy machine only ever adds time; measured 37 ms, 32 of them SHA-256."""
    keys = tiny_keys(vocab_size=32128, d_model=1024, d_ff=4096, n_layers=1, n_heads=16, d_head=64)
    data = write_weights(keys, tiny_tensors(keys))
    assert 50e6 < len(data) < 70e6
    read_seconds, hash_seconds = [], []
    for _ in range(7):
        start = time.process_time()
        read_weights(data)
        read_seconds.append(time.process_time() - start)
        start = time.process_time()
        hashlib.sha256(data).digest()
        hash_seconds.append(time.process_time() - start)
    assert min(read_seconds) < min(hash_seconds) + 0.05


numbers = {"d_model": st.integers(1, 9), "d_ff": st.integers(1, 9), "n_layers": st.integers(1, 3)}
numbers |= {"n_heads": st.integers(1, 3), "d_head": st.integers(1, 3), "vocab_size": st.integers(8, 40)}
numbers |= {"source_vocab_size": st.integers(0, 9)}
flag_names = ["tied_lm_head", "embedding_norm", "final_norm", "linear_bias", "final_logits_bias"]
flags = {name: st.integers(0, 1) for name in flag_names}
choices = {name: st.sampled_from(values) for name, values in weights.STRING_KEYS.items() if values}
texts = choices | {"weights_dtype": st.just("int8")}  # float32 has no head to rescore
texts |= {"prefix": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50)}
floats = {name: st.floats(low, high) for name, (low, high) in weights.FLOAT_KEYS.items()}


@given(changes=st.fixed_dictionaries({**numbers, **flags, **texts, **floats}), n_distances=st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_any_valid_weights_survive_writing_and_reading(changes, n_distances):
    keys = {**tiny_keys(), **changes}
    tensors = tiny_tensors(keys, n_distances=n_distances)
    data = write_weights(keys, tensors)
    read = read_weights(data)
    assert read.keys == keys
    assert write_weights(read.keys, read.tensors) == data


@given(st.binary(max_size=2000) | st.binary(max_size=500).map(lambda tail: GOLDEN.read_bytes()[:64] + tail))
@settings(max_examples=300, deadline=None)
def test_random_bytes_raise_nothing_but_bundle_errors(data):
    with pytest.raises(BundleError):
        read_weights(data)


@given(st.data())
@settings(max_examples=500, deadline=None)
def test_random_changes_behind_a_valid_hash_load_or_raise_bundle_errors(data):
    """Writes random bytes over tables and tensors, then repairs the hash so that later checks are reached."""
    changed = bytearray(GOLDEN.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        offset = data.draw(st.integers(8, len(changed) - 8))
        patch = data.draw(st.binary(min_size=1, max_size=8))
        changed[offset : offset + len(patch)] = patch
    changed[32:64] = hashlib.sha256(changed[64:]).digest()
    try:
        read = read_weights(changed)
    except BundleError:
        return
    assert write_weights(read.keys, read.tensors) == changed
