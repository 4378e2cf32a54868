import random

import pytest

from edge_s2s.errors import CloudError
from edge_s2s.hybrid.wire import events, parse


def test_events_are_the_same_however_their_bytes_are_cut():
    stream = b": hello\n\ndata: a\n\nevent: x\ndata:b\ndata: c\r\n\r\n\n\ndata: [DONE]\n\ndata: never\n\n"
    rng = random.Random(1)
    for _ in range(200):
        cuts = sorted(rng.sample(range(len(stream)), rng.randint(0, 12)))
        chunks = [stream[i:j] for i, j in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        assert list(events(chunks)) == [b"a", b"b\nc"]


def test_an_event_without_its_empty_line_counts_at_the_end():
    assert list(events([b"data: a\n"])) == [b"a"]


def test_a_long_line_in_single_bytes_takes_linear_time():
    data = b"data: " + b"x" * 300_000 + b"\n\n"
    assert len(next(events(data[i : i + 1] for i in range(len(data))))) == 300_000


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"3", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": 1e999}', b'{"a": 1, "a": 2}',
        b'{"a": "\xff"}',
        b"[" * 100_000, b'{"a":' * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xef\xbb\xbf{}", b'{"a": 1} x',
    ],
    ids=range(13),
)  # fmt: skip
def test_what_is_not_strict_json_is_refused(data: bytes):
    with pytest.raises(CloudError) as caught:
        parse(data)
    assert caught.value.reason == "invalid_response"
