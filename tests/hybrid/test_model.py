"""A model with a cloud behind it: a real model, and a real server on this machine."""

import dataclasses
import json
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import edge_s2s
from bundle_extensions import with_extensions
from edge_s2s import CloudError, GenerationOptions, InputTooLongError, Seq2SeqModel
from edge_s2s.hybrid import (
    AnswerCache,
    CloudClient,
    DeviceState,
    Governor,
    HybridModel,
    Policy,
    Step,
    Upgrade,
)
from edge_s2s_export.probe_texts import probe_texts
from hybrid.peers import ANSWER, Peer, Request, body_of, head_of, respond
from hybrid.signed_policies import public, signed

REPORT = Path(__file__).parents[2] / "reports" / "hybrid_never.json"
TEXT = probe_texts(1)[0]
SHORT = GenerationOptions(max_new_tokens=8)
DOUBTFUL = "incomplete"  # what a random model gives reason to


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Any]:
    """Makes clients of peers that answer as a handler does."""
    peers: list[Peer] = []

    def make(handler: Any = respond, **changes: Any) -> tuple[CloudClient, Peer]:
        peer = Peer(handler).__enter__()
        peers.append(peer)
        return CloudClient(peer.config("openai_chat", state_dir=str(tmp_path), **changes)), peer

    yield make
    for peer in peers:
        peer.__exit__()


@dataclass
class Warm:
    """A device of so many degrees."""

    celsius: float = 40.0

    def read(self) -> DeviceState:
        return DeviceState(temperature_c=self.celsius)


def saying(text: str | Any):
    """A handler whose answer is a text, or made of the text that was sent."""

    def handler(sock: socket.socket, request: Request) -> None:
        said = text if isinstance(text, str) else text(request.body["messages"][1]["content"])
        body = body_of(request, said)
        sock.sendall(head_of(request, len(body)) + body)

    return handler


def test_a_doubtful_draft_is_followed_by_the_clouds_answer(model: Seq2SeqModel, cloud: Any):
    client, peer = cloud()
    [best, draft], [again, _] = HybridModel(model, client, Policy(privacy="allow")).generate(
        [TEXT, TEXT], SHORT
    )
    assert (best.text, best.origin, again.origin) == (ANSWER, "cloud", "cloud")
    assert DOUBTFUL in best.reasons
    assert math.isnan(best.score)
    assert best.stats.cloud_ms > 0
    assert (
        draft == model.generate([TEXT], SHORT)[0][0] or draft.text == model.generate([TEXT], SHORT)[0][0].text
    )
    assert peer.requests[0].body["max_tokens"] == 8


def test_a_bundle_that_the_remote_policy_blocks_gives_no_answer(
    model: Seq2SeqModel, cloud: Any, tmp_path: Path
):
    file = tmp_path / "policy.json"
    file.write_bytes(signed(blocked_bundles=["0" * 64]))
    client, peer = cloud(remote_policy=str(file), remote_policy_keys=[public()])
    hybrid = HybridModel(model, client, Policy(privacy="allow", mode="prefer_on_device"))
    refusing = HybridModel(model, client, Policy(privacy="never"))
    assert refusing.generate([TEXT], SHORT)[0][0].origin == "device"
    file.write_bytes(signed(version=2, blocked_bundles=[model.bundle_digest]))
    [[best]] = hybrid.generate([TEXT], SHORT)
    assert (best.text, best.origin, best.reasons) == (ANSWER, "cloud", ("blocked",))
    for answer in (lambda: refusing.generate([TEXT]), lambda: list(refusing.stream(TEXT))):
        with pytest.raises(CloudError, match="the remote policy blocks this bundle") as caught:
            answer()
        assert caught.value.reason == "kill_switch"
    assert len(peer.requests) == 1


def test_a_model_for_a_step_is_loaded_once_when_it_is_first_needed(model: Seq2SeqModel, tiny_bundle: Path):
    device, n_loaded = Warm(), 0

    def load() -> Seq2SeqModel:
        nonlocal n_loaded
        n_loaded += 1
        return edge_s2s.load(tiny_bundle, num_threads=1)

    governor = Governor(device, clock=iter(range(0, 10_000, 100)).__next__)
    hybrid = HybridModel(model, governor=governor, models={Step.FEWER_THREADS: load})
    hybrid.generate([TEXT], SHORT)
    assert n_loaded == 0
    device.celsius = 71.0
    for _ in range(3):
        assert hybrid.generate([TEXT], SHORT)[0][0].stats.num_threads == 1
    assert n_loaded == 1


def test_a_model_for_a_step_that_there_is_no_memory_for_leaves_the_first(model: Seq2SeqModel):
    def load() -> Seq2SeqModel:
        raise MemoryError

    device = Warm(71.0)
    hybrid = HybridModel(model, governor=Governor(device), models={Step.FEWER_THREADS: load})
    assert hybrid.generate([TEXT], SHORT)[0][0].text == model.generate([TEXT], SHORT)[0][0].text


def test_a_draft_that_is_good_by_the_calibration_stays(tiny_bundle: Path, tmp_path: Path, cloud: Any):
    client, peer = cloud()
    for bias, n_sent in ((9.0, 0), (-9.0, 1)):
        calibration = {
            "good": "x", "n_documents": 250, "features": ["logprob_mean"], "mean": [0.0], "scale": [1.0],
            "weights": [0.001], "bias": bias, "slope": 1.0, "offset": 0.0, "threshold": 0.5,
        }  # fmt: skip
        bundle = with_extensions(tiny_bundle, tmp_path / f"{n_sent}.es2s", calibration=calibration)
        with edge_s2s.load(bundle, num_threads=1) as model:
            best = HybridModel(model, client, Policy(privacy="allow")).generate([TEXT], SHORT)[0][0]
        assert len(peer.requests) == n_sent
        assert (best.origin, best.reasons) == (("cloud", ("low_confidence",)) if n_sent else ("device", ()))
        assert (best.confidence is not None) == (not n_sent)


def test_only_where_the_cloud_may_be_asked_is_the_device_careful(
    tiny_bundle: Path, tmp_path: Path, cloud: Any
):
    client, _ = cloud()
    free = {
        "good": "x", "n_documents": 250, "features": ["logprob_mean"], "mean": [0.0], "scale": [1.0],
        "weights": [0.001], "bias": 9.0, "slope": 1.0, "offset": 0.0, "threshold": 0.5,
    }  # fmt: skip
    careful = free | {"features": ["draws_agree"], "n_draws": 2}
    bundle = with_extensions(
        tiny_bundle, tmp_path / "careful.es2s", calibration=free, careful_calibration=careful
    )
    with edge_s2s.load(bundle, num_threads=1) as model:
        for given, policy, n_draws in (
            (client, Policy(privacy="allow"), 2),
            (client, Policy(privacy="allow", careful=False), 0),
            (client, Policy(privacy="never"), 0),
            (client, Policy(privacy="allow", mode="only_on_device"), 0),
            (None, Policy(privacy="allow"), 0),
        ):
            hybrid = HybridModel(model, given, policy)
            best = hybrid.generate([TEXT], SHORT)[0][0]
            assert (best.origin, len(best.draws)) == ("device", n_draws)
        careless = dataclasses.replace(SHORT, careful=False)
        assert (
            HybridModel(model, client, Policy(privacy="allow")).generate([TEXT], careless)[0][0].draws == ()
        )


def test_a_stream_is_the_drafts_and_then_an_upgrade(model: Seq2SeqModel, cloud: Any):
    client, _ = cloud()
    stream = HybridModel(model, client, Policy(privacy="allow")).stream(TEXT, SHORT)
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            best = end.value
            break
    assert "".join(pieces[:-1]) == model.generate([TEXT], SHORT)[0][0].text
    assert isinstance(pieces[-1], Upgrade)
    assert pieces[-1] == best.text == ANSWER
    assert best.origin == "cloud"


def test_the_draft_streams_before_the_cloud_is_asked(model: Seq2SeqModel, cloud: Any):
    client, peer = cloud()
    stream = HybridModel(model, client, Policy(privacy="allow")).stream(TEXT, SHORT)
    next(stream)
    assert peer.requests == []
    stream.close()


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (saying("a"), None),
        (saying(" "), "cloud_invalid_response"),
        (saying("round and round " * 20), "cloud_invalid_response"),
        (lambda sock, request: None, "cloud_connect"),
    ],
)  # fmt: skip
def test_whatever_the_cloud_does_there_is_the_local_answer(
    handler: Any, reason: str | None, model: Seq2SeqModel, cloud: Any
):
    client, _ = cloud(handler)
    options = GenerationOptions(max_new_tokens=40)
    best = HybridModel(model, client, Policy(privacy="allow")).generate([TEXT], options)[0][0]
    if reason is None:
        assert best.origin == "cloud"
    else:
        assert best.origin == "device"
        assert reason in best.reasons
        assert best.text == model.generate([TEXT], options)[0][0].text


def test_a_summary_longer_than_its_text_is_refused(model: Seq2SeqModel, cloud: Any):
    client, _ = cloud(saying(lambda text: f"{text} And more."))
    summary = HybridModel(model, client, Policy(privacy="allow")).summarize(TEXT)
    assert (summary.origin, summary.reasons[-1]) == ("device", "cloud_invalid_response")


def test_a_text_too_long_for_the_model_is_answered_by_the_cloud_or_refused(model: Seq2SeqModel, cloud: Any):
    client, _ = cloud()
    long = "one two three " * model.manifest.dimensions.max_source_len
    short, best = HybridModel(model, client, Policy(privacy="allow")).generate([TEXT, long], SHORT)
    assert (best[0].text, best[0].reasons, len(best)) == (ANSWER, ("too_long",), 1)
    assert len(short) == 2
    with pytest.raises(InputTooLongError):
        HybridModel(model, client).generate([long], SHORT)


def test_a_stream_of_a_text_too_long_for_the_model_is_the_clouds(model: Seq2SeqModel, cloud: Any):
    client, _ = cloud()
    long = "one two three " * model.manifest.dimensions.max_source_len
    assert list(HybridModel(model, client, Policy(privacy="allow")).stream(long, SHORT)) == [ANSWER]
    with pytest.raises(InputTooLongError):
        list(HybridModel(model, client).stream(long, SHORT))


def test_the_cloud_gets_a_focus_before_the_document(model: Seq2SeqModel, cloud: Any):
    client, peer = cloud()
    HybridModel(model, client, Policy(privacy="allow")).summarize(TEXT, SHORT, focus="the budget")
    assert peer.requests[0].body["messages"][1]["content"] == f"the budget\n\n{TEXT}"


# -------------------------------------------------------------------------------------------------- privacy


def test_redacted_texts_are_sent_and_answers_restored(model: Seq2SeqModel, cloud: Any):
    client, peer = cloud(saying(lambda text: f"Mail <email 1> about {text.split()[-1]}"))
    text = "Please write to ann@example.org today about Heron"
    policy = Policy(privacy="redacted", deny_list=["heron"])
    best = HybridModel(model, client, policy).generate([text], SHORT)[0][0]
    sent = json.dumps(peer.requests[0].body)
    assert "<EMAIL_1>" in sent
    assert "ann@" not in sent
    assert "Heron" not in sent
    assert best.text == "Mail ann@example.org about Heron"


def test_a_placeholder_that_was_not_sent_is_refused(model: Seq2SeqModel, cloud: Any):
    client, _ = cloud(saying("Write to <EMAIL_7>"))
    best = HybridModel(model, client, Policy(privacy="redacted")).generate(["Mail a@b.de"], SHORT)[0][0]
    assert best.reasons[-1] == "cloud_invalid_response"


@pytest.mark.parametrize(
    ("consent", "origin"),
    [
        (lambda text: True, "cloud"),
        (lambda text: False, "device"),
        (lambda text: "yes", "device"),
        (None, "device"),
    ],
)
def test_ask_sends_what_was_agreed_to_and_nothing_else(
    consent: Any, origin: str, model: Seq2SeqModel, cloud: Any
):
    client, peer = cloud()
    hybrid = HybridModel(model, client, Policy(privacy="ask"), consent=consent)
    best = hybrid.generate([TEXT], SHORT)[0][0]
    assert best.origin == origin
    assert len(peer.requests) == (origin == "cloud")
    assert origin == "cloud" or best.reasons[-1] == "cloud_privacy"


def request_all(model: Seq2SeqModel, client: CloudClient, n: int) -> int:
    """Many requests of every kind under `never`; how many there were."""
    options = GenerationOptions(max_new_tokens=2)
    done = 0
    for mode in ("prefer_on_device", "only_on_device", "prefer_in_cloud"):
        hybrid = HybridModel(model, client, Policy(mode=mode, privacy="never"))  # type: ignore[arg-type]
        done += len(hybrid.generate(["a b"] * n, options))
        assert hybrid.summarize("a b", options).origin == "device"
        assert list(hybrid.stream("a b", options))
        done += 2
    hybrid = HybridModel(model, client, Policy(mode="only_in_cloud", privacy="never"))
    for _ in range(n):
        with pytest.raises(CloudError, match="privacy"):
            hybrid.generate(["a b"], options)
        done += 1
    return done


def n_attempts(model: Seq2SeqModel, cloud: Any, n_of_a_mode: int) -> tuple[int, int]:
    """Requests under `never`, and what they did with sockets."""
    attempts: list[tuple[str, object]] = []
    watching = True

    def tripwire(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event in ("socket.__new__", "socket.connect", "socket.getaddrinfo", "socket.sendto"):
            attempts.append((event, arguments))

    client, peer = cloud()
    sys.addaudithook(tripwire)  # sees every socket of Python, whoever opens it
    try:
        with pytest.raises(ConnectionRefusedError), socket.socket() as sock:
            sock.connect(("127.0.0.1", 1))
        assert attempts, "the wire works"
        attempts.clear()
        n_requests = request_all(model, client, n_of_a_mode)
    finally:
        watching = False
    assert peer.requests == []
    assert client.usage.read().n_requests == 0
    return n_requests, len(attempts)


def test_under_never_no_request_opens_a_connection(model: Seq2SeqModel, cloud: Any):
    assert n_attempts(model, cloud, 100) == (406, 0)


@pytest.mark.release
def test_under_never_5000_requests_open_no_connection(model: Seq2SeqModel, cloud: Any):
    n_requests, n_opened = n_attempts(model, cloud, 1250)
    REPORT.write_text(json.dumps({"requests": n_requests, "attempts": n_opened}, indent=2) + "\n")
    assert n_requests >= 5000
    assert n_opened == 0


def can_unshare() -> bool:
    try:
        return subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not can_unshare(), reason="this system has no network namespaces (unshare -rn)")
def test_under_never_all_answers_come_where_there_is_no_network(tiny_bundle: Path, tmp_path: Path):
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import edge_s2s
from edge_s2s.hybrid import CloudClient, CloudConfig
from hybrid.test_model import request_all
client = CloudClient(CloudConfig(base_url="https://example.org/v1", model="m", state_dir={str(tmp_path)!r}))
with edge_s2s.load({str(tiny_bundle)!r}, num_threads=1) as model:
    print(request_all(model, client, 50))
"""
    run = subprocess.run(["unshare", "-rn", sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "206\n"), run.stderr


# ---------------------------------------------------------------------------------------------------- modes


def test_only_on_device_says_its_doubts_and_asks_nobody(model: Seq2SeqModel, cloud: Any):
    client, peer = cloud()
    policy = Policy(mode="only_on_device", privacy="allow")
    [draft] = HybridModel(model, client, policy).generate([TEXT], SHORT)[0]
    assert draft.origin == "device"
    assert DOUBTFUL in draft.reasons
    assert peer.requests == []


def test_only_in_cloud_raises_what_went_wrong(model: Seq2SeqModel, cloud: Any):
    client, _ = cloud()
    policy = Policy(mode="only_in_cloud", privacy="allow")
    [best] = HybridModel(model, client, policy).generate([TEXT], SHORT)[0]
    assert (best.text, best.reasons) == (ANSWER, ("mode",))
    with pytest.raises(CloudError) as caught:
        HybridModel(model, None, policy).generate([TEXT], SHORT)
    assert caught.value.reason == "mode"


IN_CLOUD = Policy(mode="prefer_in_cloud", privacy="allow")


def test_prefer_in_cloud_takes_a_quick_answer_and_runs_no_model(model: Seq2SeqModel, cloud: Any):
    client, _ = cloud()
    assert [g.text for g in HybridModel(model, client, IN_CLOUD).generate([TEXT], SHORT)[0]] == [ANSWER]
    assert list(HybridModel(model, client, IN_CLOUD).stream(TEXT, SHORT)) == [ANSWER]


def test_the_local_answer_wins_over_a_cloud_that_has_not_begun(model: Seq2SeqModel, cloud: Any):
    ended = threading.Event()

    def silent(sock: socket.socket, request: Request) -> None:
        ended.wait(20)

    client, _ = cloud(silent)
    try:
        start = time.monotonic()
        [draft] = HybridModel(model, client, IN_CLOUD).generate([TEXT], SHORT)[0]
        assert draft.reasons[-2:] == ("mode", "cloud_slow")
        assert time.monotonic() - start >= client.first_token_p95_s
    finally:
        ended.set()


def test_a_cloud_that_begins_while_the_model_runs_is_waited_for(model: Seq2SeqModel, cloud: Any):
    def late(sock: socket.socket, request: Request) -> None:
        time.sleep(0.9)  # the model begins after 0.8 s
        body = body_of(request)
        half = body.index(b"\n\n") + 2
        sock.sendall(head_of(request, len(body)) + body[:half])
        time.sleep(0.5)
        sock.sendall(body[half:])

    class SlowModel(Seq2SeqModel):
        def generate(self, *args: Any, **kwargs: Any) -> Any:
            time.sleep(0.4)
            return super().generate(*args, **kwargs)

    client, _ = cloud(late)
    slow = SlowModel.__new__(SlowModel)
    slow.__dict__ = model.__dict__
    best, draft = HybridModel(slow, client, IN_CLOUD).generate([TEXT], SHORT)[0]
    assert (best.text, draft.origin) == (ANSWER, "device")


def test_a_deadline_keeps_a_part_for_the_model_when_the_cloud_is_silent(model: Seq2SeqModel, cloud: Any):
    client, _ = cloud(lambda sock, request: time.sleep(3))
    options = GenerationOptions(max_new_tokens=8, deadline_ms=700)
    start = time.monotonic()
    best = HybridModel(model, client, IN_CLOUD).generate([TEXT], options)[0][0]
    assert best.origin == "device"
    assert best.text
    assert time.monotonic() - start < 2.5, "0.7 s on an idle machine"


# --------------------------------------------------------------------------------------------------- device


class Fixed:
    """A device in one state."""

    def __init__(self, **state: Any) -> None:
        self.state = DeviceState(**state)

    def read(self) -> DeviceState:
        return self.state


def test_a_hot_device_searches_greedily_and_with_the_model_for_it(
    model: Seq2SeqModel, float_model: Seq2SeqModel
):
    beams = GenerationOptions(max_new_tokens=8, num_beams=4, num_return_sequences=2)
    for celsius, used, n in ((20, model, 2), (71, model, 2), (76, model, 1), (81, float_model, 1)):
        governor = Governor(Fixed(temperature_c=celsius))
        hybrid = HybridModel(model, governor=governor, models={Step.SMALLER_BUNDLE: float_model})
        results = hybrid.generate([TEXT], beams)[0]
        expected = used.generate([TEXT], beams if n == 2 else SHORT)
        assert [g.text for g in results] == [g.text for g in expected[0]][: len(results)]
        assert len(results) == n


def test_a_device_that_cannot_offloads_or_refuses(model: Seq2SeqModel, cloud: Any):
    client, _ = cloud()
    governor = Governor(Fixed(temperature_c=90))
    [best] = HybridModel(model, client, Policy(privacy="allow"), governor=governor).generate([TEXT], SHORT)[0]
    assert (best.origin, best.reasons) == ("cloud", ("device",))
    with pytest.raises(CloudError, match=r"too hot.*privacy") as caught:
        HybridModel(model, client, governor=governor).summarize(TEXT, SHORT)
    assert caught.value.reason == "device"


def test_a_metered_network_is_used_only_if_the_policy_says_so(model: Seq2SeqModel, cloud: Any):
    client, peer = cloud()
    governor = Governor(Fixed(is_metered=True))
    for allowed in (False, True):
        policy = Policy(privacy="allow", metered_network=allowed)
        best = HybridModel(model, client, policy, governor=governor).generate([TEXT], SHORT)[0][0]
        assert (best.origin == "cloud") is allowed
    assert len(peer.requests) == 1


def test_a_text_that_comes_again_is_answered_from_the_cache(model: Seq2SeqModel, cloud: Any):
    client, peer = cloud()
    policy = Policy(privacy="allow")
    plain, cached = (
        HybridModel(model, client, policy),
        HybridModel(model, client, policy, cache=AnswerCache()),
    )
    texts = [[[g.text for g in h.generate([TEXT], SHORT)[0]] for _ in range(3)] for h in (plain, cached)]
    assert texts[0] == texts[1]
    assert len(peer.requests) == 3 + 1


def test_threads_share_a_hybrid_model(model: Seq2SeqModel, cloud: Any):
    client, peer = cloud(lambda sock, request: saying(lambda text: f"about {text[:10]}")(sock, request))
    hybrid = HybridModel(model, client, Policy(privacy="allow"))
    texts = probe_texts(16)
    found: dict[str, str] = {}
    threads = [
        threading.Thread(target=lambda t=text: found.update({t: hybrid.generate([t], SHORT)[0][0].text}))
        for text in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {text: f"about {text[:10]}".strip() for text in texts}
    assert len(peer.requests) == 16


def test_token_ids_are_for_the_model_itself(model: Seq2SeqModel):
    with pytest.raises(TypeError, match="token ids"):
        HybridModel(model).generate([[3, 4]])  # type: ignore[list-item]
