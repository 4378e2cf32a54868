import contextlib
import json
import time
import tracemalloc

import pytest
from hypothesis import given, settings

from edge_s2s.errors import BundleError
from edge_s2s.strict_json import MAX_JSON_DEPTH, parse_json
from json_values import json_values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, -2.5e3, true, null, "\\u00e9\\"]{"]}', {"a": [1, -2500.0, True, None, 'é"]{']}),
        ("[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH, [[[[[[[[]]]]]]]]),
        ('"[[[[[[[[[[[["', "[[[[[[[[[[[["),
    ],
)
def test_strict_json_reads_what_json_reads(text, value):
    assert parse_json(text.encode(), "x.json", 1000) == json.loads(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[1,]", "{'a': 1}", '{"a": 1} 2', "nul", "01", '"\n"', '"\\x"', '"\\', '"', "\ufeff{}"),
        *('{"a": 1, "a": 1}', '[{"a": {"b": 1, "c": 2, "b": 3}}]'),
        *("NaN", "[Infinity]", "-Infinity", "1e999", "9" * 5000),
        "[" * (MAX_JSON_DEPTH + 1) + "]" * (MAX_JSON_DEPTH + 1),
        " " * 20001,
    ],
)
def test_strict_json_refuses_the_rest(text):
    with pytest.raises(BundleError) as caught:
        parse_json(text.encode(), "x.json", 20000)
    assert caught.value.file == "x.json"
    assert caught.value.found


GREEDY_JSON = {  # cheap to write, dear to hold
    "empty objects": (b"[" + b"{}," * 90000 + b"{}]"),
    "empty lists": (b"[" + b"[]," * 90000 + b"[]]"),
    "short strings": (b"[" + b'"ab",' * 50000 + b"0]"),
    "many keys": (b"{" + b",".join(b'"%d":1' % i for i in range(25000)) + b"}"),
    "long numbers": (b"[" + b"1234567890," * 20000 + b"0]"),
    "wide text": ('["' + "a" * 200000 + "👋" + '"]').encode(),
    "wide escape": ('["' + "a" * 200000 + "\\ud83d\\udc4b" + '"]').encode(),
    "one-key objects": (b"[" + b'{"":0},' * 30000 + b"0]"),
    "an unclosed string": b'"' + b'\\"' * 100000,
    "floats": b"[" + b"1.5," * 60000 + b"0]",
}


@pytest.mark.parametrize("kind", GREEDY_JSON)
def test_greedy_json_is_read_in_time(kind):
    """0.5 s is 16 times what the slowest takes."""
    start = time.process_time()
    with contextlib.suppress(BundleError):
        parse_json(GREEDY_JSON[kind], "x.json", 1 << 20)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("kind", GREEDY_JSON)
@pytest.mark.parametrize("part", [1.0, 0.3, 0.1, 0.05])
def test_parsing_json_allocates_at_most_twice_the_file_and_one_mebibyte(kind, part):
    data = GREEDY_JSON[kind]
    if part < 1:
        data = data[: int(len(data) * part)].rpartition(b",")[0] + (b"}" if data[:1] == b"{" else b"]")
    tracemalloc.start()
    try:
        with contextlib.suppress(BundleError):
            parse_json(data, "x.json", 1 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 2 * len(data) + (1 << 20)


@given(json_values)
@settings(max_examples=200, deadline=None)
def test_any_json_of_allowed_depth_is_read(value):
    def depth(value: object) -> int:
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        return (isinstance(value, dict | list)) + max(map(depth, children), default=0)

    data = json.dumps(value).encode()
    if depth(value) <= MAX_JSON_DEPTH:
        assert parse_json(data, "x.json", 1 << 20) == value
    else:
        with pytest.raises(BundleError):
            parse_json(data, "x.json", 1 << 20)
