"""The client against a real server on this machine, in each of the three protocols."""

import io
import json
import logging
import random
import socket
import time
import traceback
from pathlib import Path

import pytest

from edge_s2s.errors import CloudError
from edge_s2s.hybrid.client import CloudClient, estimate_tokens
from edge_s2s.hybrid.config import CloudConfig
from hybrid.peers import ANSWER, PROTOCOLS, Peer, Request, answer_of, body_of, head_of, respond

TEXT = "Ann: Shall we meet at six?\nBob: At seven, please."


def ask(config: CloudConfig, *, stream: bool = False, **arguments: object) -> str:
    client = CloudClient(config, **arguments)  # type: ignore[arg-type]
    return client.complete(TEXT, max_new_tokens=40, stream=stream).text


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "state")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_answer_of_each_protocol_arrives(protocol: str, stream: bool, state: str):
    with Peer() as peer:
        client = CloudClient(peer.config(protocol, state_dir=state))
        answer = client.complete(TEXT, max_new_tokens=40, stream=stream)
    assert (answer.text, answer.model) == (ANSWER, "teacher")
    assert answer.finish_reason == (None if protocol == "open_inference" else "eos")
    [request] = peer.requests
    assert json.dumps(TEXT) in json.dumps(request.body)
    assert request.headers["accept-encoding"] == "identity"
    assert "authorization" not in request.headers


@pytest.mark.parametrize("protocol", ["openai_chat", "generate_endpoint"])
def test_a_stream_comes_in_pieces(protocol: str, state: str):
    with Peer() as peer:
        pieces = list(CloudClient(peer.config(protocol, state_dir=state)).stream(TEXT, max_new_tokens=40))
    assert len(pieces) == 4
    assert "".join(pieces) == ANSWER


def test_leaving_a_stream_closes_its_connection(state: str):
    ended = []

    def drip(sock: socket.socket, request: Request) -> None:
        body = body_of(request)
        sock.sendall(head_of(request, len(body)) + body[: body.index(b"\n\n") + 2])
        ended.append(sock.recv(1))  # waits until the client has gone

    with Peer(drip) as peer:
        stream = CloudClient(peer.config("openai_chat", state_dir=state)).stream(TEXT, max_new_tokens=40)
        assert next(stream) == ANSWER[:5]
        stream.close()
        deadline = time.monotonic() + 10
        while not ended and time.monotonic() < deadline:
            time.sleep(0.01)
    assert ended == [b""]


def test_the_document_is_the_users_message_alone(state: str):
    with Peer() as peer:
        ask(peer.config("openai_chat", state_dir=state, instruction="Say it briefly."))
    assert peer.requests[0].body["messages"] == [
        {"role": "system", "content": "Say it briefly."},
        {"role": "user", "content": TEXT},
    ]


def failing(*statuses: str, **headers: str):
    """A handler that answers with these one after the other, then well."""
    left = list(statuses)

    def handler(sock: socket.socket, request: Request) -> None:
        if not left:
            respond(sock, request)
            return
        body = b'{"error": {"message": "no"}}'
        sock.sendall(
            head_of(request, len(body), left.pop(0), Content_Type="application/json", **headers) + body
        )

    return handler


@pytest.mark.parametrize("status", ["408 x", "425 x", "429 x", "500 x", "502 x", "503 x", "504 x"])
def test_a_passing_failure_is_retried_once_with_the_same_key(status: str, state: str):
    with Peer(failing(status)) as peer:
        assert ask(peer.config("openai_chat", state_dir=state, max_attempts=2)) == ANSWER
    assert len(peer.requests) == 2
    assert len({request.headers["idempotency-key"] for request in peer.requests}) == 1


@pytest.mark.parametrize("status", ["400 x", "401 x", "403 x", "404 x", "413 x", "422 x", "501 x"])
def test_what_would_fail_again_is_not_retried(status: str, state: str):
    with Peer(failing(status)) as peer, pytest.raises(CloudError) as caught:
        ask(peer.config("openai_chat", state_dir=state, max_attempts=3))
    assert (caught.value.reason, caught.value.status) == ("status", int(status[:3]))
    assert len(peer.requests) == 1


def test_retry_after_is_waited_for_if_the_deadline_allows(state: str):
    with Peer(failing("429 x", Retry_After="1")) as peer:
        start = time.monotonic()
        assert ask(peer.config("openai_chat", state_dir=state, max_attempts=2)) == ANSWER
        assert time.monotonic() - start >= 1
    with Peer(failing("429 x", Retry_After="60")) as peer, pytest.raises(CloudError) as caught:
        ask(peer.config("openai_chat", state_dir=state, max_attempts=2))
    assert caught.value.retry_after_s == 60
    assert len(peer.requests) == 1


def test_nothing_is_retried_after_the_first_piece(state: str):
    def break_off(sock: socket.socket, request: Request) -> None:
        body = body_of(request)
        sock.sendall(head_of(request, len(body)) + body[: len(body) // 2])

    with Peer(break_off) as peer, pytest.raises(CloudError) as caught:
        ask(peer.config("openai_chat", state_dir=state, max_attempts=3), stream=True)
    assert caught.value.reason == "interrupted"
    assert len(peer.requests) == 1


def test_the_breaker_opens_after_five_failures_and_no_request_is_sent(state: str):
    with Peer(failing(*["500 x"] * 9)) as peer:
        client = CloudClient(peer.config("openai_chat", state_dir=state))
        reasons = []
        for _ in range(7):
            with pytest.raises(CloudError) as caught:
                client.complete(TEXT, max_new_tokens=40)
            reasons.append(caught.value.reason)
    assert reasons == ["status"] * 5 + ["open_circuit"] * 2
    assert len(peer.requests) == 5


def test_a_request_that_is_our_own_fault_does_not_open_the_breaker(state: str):
    with Peer(failing(*["400 x"] * 9)) as peer:
        client = CloudClient(peer.config("openai_chat", state_dir=state))
        for _ in range(9):
            with pytest.raises(CloudError):
                client.complete(TEXT, max_new_tokens=40)
    assert client.breaker.state == "closed"


def test_caps_of_the_day_hold_across_clients_and_use_what_the_endpoint_counts(state: str):
    with Peer() as peer:
        config = peer.config("openai_chat", state_dir=state, max_requests_per_day=2)
        assert [ask(config), ask(config)] == [ANSWER, ANSWER]
        assert CloudClient(config).usage.read().n_tokens == 2 * 37
        with pytest.raises(CloudError, match="max_requests_per_day is 2"):
            ask(config)
    assert len(peer.requests) == 2


def test_tokens_are_reserved_before_a_text_is_sent(state: str):
    with Peer() as peer, pytest.raises(CloudError) as caught:
        ask(peer.config("openai_chat", state_dir=state, max_tokens_per_day=estimate_tokens(TEXT) + 39))
    assert caught.value.reason == "budget"
    assert peer.requests == []


@pytest.mark.parametrize("how", ["environment", "file"])
def test_the_switch_forbids_every_request(how: str, state: str):
    environ = {"EDGE_S2S_CLOUD": "off"} if how == "environment" else {}
    with Peer() as peer:
        config = peer.config("openai_chat", state_dir=state)
        if how == "file":
            Path(state).mkdir()
            (Path(state) / "cloud.disabled").touch()
        with pytest.raises(CloudError) as caught:
            ask(config, environ=environ)
    assert caught.value.reason == "kill_switch"
    assert peer.requests == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": "other"}, "model 'other' answered"),
        ({"choices": []}, '"choices"'),
        ({"choices": [{"message": {"content": ANSWER}, "finish_reason": "tool_calls"}]}, "tool_calls"),
        ({"choices": [{"message": {"content": " \n"}, "finish_reason": "stop"}]}, "empty"),
        ({"choices": [{"message": {"content": "a\x1b[2J"}, "finish_reason": "stop"}]}, "control"),
        ({"choices": [{"message": {"content": "\ufffd" * 9}, "finish_reason": "stop"}]}, "replacement"),
        ({"choices": [{"message": {"content": "a" * 641}, "finish_reason": "stop"}]}, "641 characters"),
        ({"choices": [{"message": {"content": 3}, "finish_reason": "stop"}]}, '"content"'),
        ({"error": {"message": "overloaded"}}, "overloaded"),
    ],
)
def test_an_answer_that_is_not_what_it_must_be_is_refused(
    change: dict[str, object], sentence: str, state: str
):
    def wrong(sock: socket.socket, request: Request) -> None:
        body = json.dumps({**answer_of(request), **change}).encode()
        sock.sendall(head_of(request, len(body)) + body)

    with Peer(wrong) as peer, pytest.raises(CloudError, match=sentence) as caught:
        ask(peer.config("openai_chat", state_dir=state))
    assert caught.value.reason == "invalid_response"


def test_a_dated_name_and_an_alias_are_the_model(state: str):
    names = ["teacher-2026-01-01", "big"]

    def named(sock: socket.socket, request: Request) -> None:
        body = json.dumps({**answer_of(request), "model": names.pop()}).encode()
        sock.sendall(head_of(request, len(body)) + body)

    with Peer(named) as peer:
        config = peer.config("openai_chat", state_dir=state, model_aliases=["big"])
        assert [ask(config), ask(config)] == [ANSWER, ANSWER]


KEY = "sk-canary-0123456789"


def test_the_key_is_sent_to_its_host_and_shown_nowhere(state: str, tmp_path: Path):
    log = io.StringIO()
    root, handler = logging.getLogger(), logging.StreamHandler(log)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)

    def echo(sock: socket.socket, request: Request) -> None:
        body = b'{"error": "%s"}' % request.headers["authorization"].encode()
        sock.sendall(head_of(request, len(body), "401 x", Content_Type="application/json") + body)

    shown = []
    try:
        for handle in (respond, echo, failing("500 x"), failing("301 x", Location="http://127.0.0.1:1/")):
            with Peer(handle) as peer:
                config = peer.config("openai_chat", state_dir=state, api_key_env="KEY")
                client = CloudClient(config, environ={"KEY": KEY})
                try:
                    client.complete(TEXT, max_new_tokens=40)
                except CloudError:
                    shown.append(traceback.format_exc())
                shown += [repr(client), repr(config), str(vars(config))]
            assert [r.headers["authorization"] for r in peer.requests] == [f"Bearer {KEY}"]
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    state_files = "".join(path.read_text() for path in Path(state).iterdir())
    assert "***" in shown[3], "the endpoint echoed it"
    assert KEY not in "".join(shown) + log.getvalue() + state_files


def test_first_token_time_is_learned_from_20_answers(state: str):
    with Peer() as peer:
        client = CloudClient(peer.config("openai_chat", state_dir=state), rng=random.Random(1))
        assert client.first_token_p95_s == 0.8
        for _ in range(20):
            client.complete(TEXT, max_new_tokens=40, stream=True)
    assert 0 < client.first_token_p95_s < 0.8
