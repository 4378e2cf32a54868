"""Where a remote policy comes from: files and a real server, and attackers who hold one of them."""

import json
import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_s2s.errors import CloudError
from edge_s2s.hybrid.client import CloudClient
from edge_s2s.hybrid.config import CloudConfig
from edge_s2s.hybrid.policy_source import INSTALL_ID, KEPT, PolicySource
from hybrid.peers import Peer, Request
from hybrid.signed_policies import PAST, public, signed

OFF = {"cloud_enabled": False}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policy.json"


@pytest.fixture
def source(file: Path, tmp_path: Path) -> PolicySource:
    return PolicySource(str(file), [public()], tmp_path / "state", refresh_s=3600)


def soon() -> float:
    return time.monotonic() + 10


def version(source: PolicySource) -> int | None:
    policy = source.current(soon())
    return None if policy is None else policy.version


def test_without_a_policy_nothing_is_forbidden(source: PolicySource):
    source.check(soon())
    assert not source.blocks("ab" * 32)
    assert source.problem is not None
    assert "policy.json" in source.problem


def test_a_policy_forbids_from_the_next_request_on(source: PolicySource, file: Path):
    source.check(soon())
    file.write_bytes(signed(**OFF, blocked_bundles=["ab" * 32]))
    with pytest.raises(CloudError, match="switches the cloud off") as caught:
        source.check(soon())
    assert caught.value.reason == "kill_switch"
    assert source.blocks("ab" * 32)
    assert not source.blocks("cd" * 32)
    assert source.problem is None
    file.write_bytes(signed(version=2))
    source.check(soon())


def test_a_tampered_policy_leaves_the_last_good_one(source: PolicySource, file: Path):
    file.write_bytes(signed(version=3, **OFF))
    assert version(source) == 3
    envelope = json.loads(signed(version=4))
    envelope["payload"] = json.loads(signed(version=5))["payload"]
    file.write_text(json.dumps(envelope))
    assert version(source) == 3
    assert "expected a signature" in str(source.problem)
    with pytest.raises(CloudError, match="switches the cloud off"):
        source.check(soon())


def test_a_policy_of_another_key_is_none(source: PolicySource, file: Path):
    file.write_bytes(signed(Ed25519PrivateKey.generate(), version=9, **OFF))
    assert version(source) is None
    source.check(soon())


@pytest.mark.parametrize("older", [{"version": 2}, {"version": 3}])
def test_a_policy_that_was_rolled_back_or_replaced_within_its_version_is_refused(
    older: dict[str, object], source: PolicySource, file: Path
):
    file.write_bytes(signed(version=3, **OFF))
    assert version(source) == 3
    file.write_bytes(signed(**older))
    with pytest.raises(CloudError, match="switches the cloud off"):
        source.check(soon())
    assert "expected a version above 3" in str(source.problem)


def test_an_expired_off_stays_off_and_an_expired_canary_ends(source: PolicySource, file: Path):
    file.write_bytes(signed(version=1, expires=PAST, canary_percent=0))
    source.check(soon())
    file.write_bytes(signed(version=2, expires=PAST, **OFF))
    with pytest.raises(CloudError, match="switches the cloud off"):
        source.check(soon())


def test_the_last_good_policy_survives_a_restart_and_its_source(tmp_path: Path, file: Path):
    file.write_bytes(signed(**OFF))
    folder = tmp_path / "state"
    assert version(PolicySource(str(file), [public()], folder, refresh_s=1)) == 1
    file.unlink()
    again = PolicySource(str(file), [public()], folder, refresh_s=1)
    with pytest.raises(CloudError, match="switches the cloud off"):
        again.check(soon())
    other = Ed25519PrivateKey.generate()
    assert version(PolicySource(str(file), [public(other)], folder, refresh_s=1)) is None, "a key is gone"


@pytest.mark.parametrize("damage", [b"", b"{", b"x" * (1 << 17)])
def test_a_damaged_copy_or_a_huge_file_is_as_none(damage: bytes, tmp_path: Path, file: Path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / KEPT).write_bytes(damage)
    file.write_bytes(damage)
    source = PolicySource(str(file), [public()], tmp_path / "state", refresh_s=1)
    assert version(source) is None
    file.write_bytes(signed())
    assert version(source) == 1


def test_the_id_of_a_device_stays_is_its_owners_alone_and_decides_the_canary(tmp_path: Path, file: Path):
    file.write_bytes(signed(canary_percent=50))
    outcomes = set()
    for name in map(str, range(40)):
        source = PolicySource(str(file), [public()], tmp_path / name, refresh_s=1)
        found = []
        for _ in range(3):
            try:
                source.check(soon())
                found.append(True)
            except CloudError:
                found.append(False)
        assert len(set(found)) == 1
        outcomes.add(found[0])
        mode = (tmp_path / name / INSTALL_ID).stat().st_mode
        assert not mode & (stat.S_IRWXG | stat.S_IRWXO)
    assert outcomes == {True, False}, "one of 2 ** 39 runs has one outcome only"


def test_a_folder_that_cannot_be_written_forbids_the_cloud(tmp_path: Path, file: Path):
    file.write_bytes(signed())
    source = PolicySource(str(file), [public()], file, refresh_s=1)  # a file in its place
    source.check(soon())  # there is no good policy, and no way to keep one
    assert source.problem is not None


# ----------------------------------------------------- URL --------------------------------------------------


class Served:
    """What a server says about a policy, and how often it was asked."""

    body: bytes = b""
    status = "200 OK"
    n_asked = 0

    def __call__(self, sock: socket.socket, request: Request) -> None:
        self.n_asked += 1
        sock.sendall(f"HTTP/1.1 {self.status}\r\nContent-Length: {len(self.body)}\r\n\r\n".encode())
        sock.sendall(self.body)


def test_a_url_is_asked_once_an_hour_and_again_after_a_restart_only_then(tmp_path: Path):
    served, now = Served(), [1_790_000_000.0]
    served.body = signed(version=1)
    with Peer(served) as peer:
        url = f"http://127.0.0.1:{peer.port}/policy.json"

        def new() -> PolicySource:
            return PolicySource(url, [public()], tmp_path, refresh_s=3600, clock=lambda: now[0])

        source = new()
        for _ in range(3):
            assert version(source) == 1
        assert version(new()) == 1
        assert served.n_asked == 1
        served.body = signed(version=2, **OFF)
        now[0] += 3601
        assert source.current(None) == new().current(None) is not None, "no deadline, no connection"
        assert served.n_asked == 1
        with pytest.raises(CloudError, match="switches the cloud off"):
            source.check(soon())
        assert served.n_asked == 2
        now[0] -= 100_000  # a clock that was set back does not make it fresh for ever
        assert version(new()) == 2
        assert served.n_asked == 3


@pytest.mark.parametrize("fault", ["503 busy", "302 elsewhere", "huge", "refused", "silent"])
def test_a_url_that_does_not_answer_leaves_the_last_good_policy_in_time(fault: str, tmp_path: Path):
    served = Served()
    served.body = signed(version=1, **OFF)
    answers: Callable[[socket.socket, Request], None] = served
    gone = threading.Event()
    if fault == "silent":
        answers = lambda sock, request: gone.wait(10) and None  # noqa: E731
    with Peer(answers) as peer:
        url = f"http://127.0.0.1:{peer.port}/policy.json"
        if fault == "refused":
            peer.__exit__()
        (tmp_path / KEPT).write_bytes(served.body)
        os.utime(tmp_path / KEPT, (0, 0))
        served.status = fault if fault[0].isdigit() else "200 OK"
        served.body = b"x" * (1 << 17) if fault == "huge" else signed(version=2)
        source = PolicySource(url, [public()], tmp_path, refresh_s=60)
        start = time.monotonic()
        with pytest.raises(CloudError, match="switches the cloud off"):
            source.check(time.monotonic() + 1.0)
        assert time.monotonic() - start < 8, "a second, on a busy machine"
        assert source.problem is not None
        with pytest.raises(CloudError):
            source.check(soon())
        assert served.n_asked <= 1, "not asked again at once"
        gone.set()


# ---------------------------------------------------- client ------------------------------------------------


def test_a_client_asks_its_policy_before_it_sends_a_text(tmp_path: Path, file: Path):
    file.write_bytes(signed(**OFF))
    with Peer() as peer:
        config = peer.config(
            "openai_chat",
            state_dir=str(tmp_path / "state"),
            remote_policy=str(file),
            remote_policy_keys=[public()],
        )
        client = CloudClient(config)
        with pytest.raises(CloudError, match="remote policy") as caught:
            client.complete("A text", max_new_tokens=20)
        assert caught.value.reason == "kill_switch"
        assert peer.requests == []
        shutil.copy(file, tmp_path / "old")
        file.write_bytes(signed(version=2))
        assert client.complete("A text", max_new_tokens=20).text
        file.write_bytes((tmp_path / "old").read_bytes())
        assert client.complete("A text", max_new_tokens=20).text, "the old one was rolled back to"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"remote_policy": "p.json"}, "give both or none"),
        ({"remote_policy_keys": ["x"]}, "give both or none"),
        ({"remote_policy": "p.json", "remote_policy_keys": ["x"]}, "remote_policy_keys: expected base64"),
        ({"remote_policy": "http://far.example/p", "remote_policy_keys": [public()]}, "not encrypted"),
        ({"remote_policy": "ftp://far.example", "remote_policy_keys": [public()]}, "remote_policy: expected"),
        ({"remote_policy_refresh_s": -1}, "remote_policy_refresh_s"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused(change: dict[str, object], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        CloudConfig(**{"base_url": "https://host/v1", "model": "m", **change})  # type: ignore[arg-type]
