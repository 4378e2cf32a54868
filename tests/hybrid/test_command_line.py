"""`edge-s2s summarize --cloud` and `edge-s2s cloud check`, as a user meets them."""

import json
import os
import pty
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bundle_extensions import with_extensions
from edge_s2s import Seq2SeqModel
from edge_s2s.hybrid import CloudConfig
from edge_s2s.hybrid.check import SENTENCE, check
from edge_s2s_export.probe_texts import probe_texts
from hybrid.peers import ANSWER, Peer, Request, respond

TEXT = probe_texts(1)[0]
COMMAND = [sys.executable, "-m", "edge_s2s"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def tell(sock: socket.socket, request: Request) -> None:
    """As `respond`, and what a server tells about itself."""
    if request.method == "POST":
        respond(sock, request)
        return
    known: dict[str, object] = {
        "/v1/models": {"object": "list", "data": [{"id": "teacher"}]},
        "/v2/models/teacher": {
            "name": "teacher",
            "inputs": [{"name": "document"}],
            "outputs": [{"name": "text"}],
        },
    }
    body = json.dumps(known.get(request.path, {"error": "no"})).encode()
    status = b"200 OK" if request.path in known else b"404 x"
    head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (
        status,
        len(body),
    )
    sock.sendall(head + body)


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer(tell) as opened:
        yield opened


@pytest.fixture
def run(tmp_path: Path, tiny_bundle: Path, peer: Peer) -> Run:
    """Runs `edge-s2s` in a folder with a text and a configuration; `policy` is the table of that name."""
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")

    def run(*arguments: str, policy: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
        (tmp_path / "cloud.toml").write_text(
            f'[cloud]\nbase_url = "http://127.0.0.1:{peer.port}/v1"\nmodel = "teacher"\n'
            f'state_dir = "{tmp_path / "state"}"\n[policy]\n{policy}\n'
        )
        bundle = (
            ["--bundle", str(tiny_bundle), "--max-new-tokens", "8"] if arguments[0] == "summarize" else []
        )
        return subprocess.run(
            [*COMMAND, *arguments, *bundle], capture_output=True, text=True, cwd=tmp_path,
            env={**os.environ, **environment}, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    return run


def test_a_doubtful_summary_comes_from_the_cloud_if_privacy_allows_it(
    run: Run, peer: Peer, model: Seq2SeqModel
):
    done = run("summarize", "text.txt", "--cloud", "cloud.toml", "--privacy", "allow")
    assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER + "\n", "")
    done = run("summarize", "text.txt", "--cloud", "cloud.toml", "--json", policy='privacy = "redacted"')
    values = json.loads(done.stdout)
    assert (values["text"], values["origin"], values["score"]) == (ANSWER, "cloud", None)
    assert len(peer.requests) == 2


@pytest.mark.parametrize(
    ("flags", "environment"),
    [
        ([], {}),  # privacy is never by default
        (["--privacy", "ask"], {}),  # and there is no terminal
        (["--privacy", "allow", "--mode", "only_on_device"], {}),
        (["--privacy", "allow"], {"EDGE_S2S_CLOUD": "off"}),
    ],
)
def test_otherwise_it_is_the_local_one_and_nothing_is_sent(
    flags: list[str], environment: dict[str, str], run: Run, peer: Peer
):
    done = run("summarize", "text.txt", "--cloud", "cloud.toml", *flags, "--json", **environment)
    assert json.loads(done.stdout)["origin"] == "device"
    assert peer.requests == []


def test_only_in_cloud_without_permission_is_an_error_in_one_sentence(run: Run):
    done = run("summarize", "text.txt", "--cloud", "cloud.toml", "--mode", "only_in_cloud")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'edge-s2s: error: privacy is "never" (privacy)\n'


def test_mode_without_a_cloud_is_a_usage_error(run: Run):
    done = run("summarize", "text.txt", "--mode", "only_on_device")
    assert done.returncode == 2
    assert "for --cloud" in done.stderr


@pytest.fixture
def warm(tmp_path: Path) -> Callable[[int], str]:
    """A system of so many degrees, as `[device]` names it."""

    def at(celsius: int) -> str:
        zone = tmp_path / "host" / "sys" / "class" / "thermal" / "thermal_zone0"
        zone.mkdir(parents=True, exist_ok=True)
        (zone / "temp").write_text(f"{1000 * celsius}\n")
        return f'[device]\nroot = "{tmp_path / "host"}"\n'

    return at


@pytest.mark.parametrize(
    ("celsius", "flags", "table", "n_threads"),
    [
        (40, [], "", 4),
        (71, [], "", 2),
        (71, ["--no-fewer-threads"], "", 4),
        (71, [], "fewer_threads = false\n", 4),
        (71, ["--fewer-threads"], "fewer_threads = false\n", 2),
        (81, [], "", 2),
    ],
)
def test_a_warm_device_answers_with_half_of_the_threads(
    celsius: int, flags: list[str], table: str, n_threads: int, run: Run, warm: Callable[[int], str]
):
    command = ["summarize", "text.txt", "--cloud", "cloud.toml", "--json", "--num-threads", "4", *flags]
    done = run(*command, policy=warm(celsius) + table)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["stats"]["num_threads"] == n_threads


@pytest.mark.parametrize("in_file", [False, True])
def test_a_hot_device_answers_with_the_smaller_bundle(
    in_file: bool, run: Run, warm: Callable[[int], str], tiny_bundle: Path, tmp_path: Path
):
    """Which is told from the other by a calibration that has no doubts."""
    calibration = {
        "good": "x", "n_documents": 250, "features": ["logprob_mean"], "mean": [0.0], "scale": [1.0],
        "weights": [0.001], "bias": 9.0, "slope": 1.0, "offset": 0.0, "threshold": 0.5,
    }  # fmt: skip
    smaller = with_extensions(tiny_bundle, tmp_path / "smaller.es2s", calibration=calibration)
    command = ["summarize", "text.txt", "--cloud", "cloud.toml", "--json", "--num-threads", "1"]
    for celsius in (40, 81):
        if in_file:
            done = run(*command, policy=f'{warm(celsius)}smaller_bundle = "{smaller}"\n')
        else:
            done = run(*command, "--smaller-bundle", str(smaller), policy=warm(celsius))
        assert (done.returncode, done.stderr) == (0, "")
        assert (json.loads(done.stdout)["confidence"] is not None) == (celsius == 81)


def test_a_smaller_bundle_that_is_not_there_is_an_error_before_any_work(run: Run):
    done = run("summarize", "text.txt", "--cloud", "cloud.toml", "--smaller-bundle", "absent.es2s")
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == "edge-s2s: error: smaller_bundle: expected a path that exists, found 'absent.es2s'\n"
    )
    done = run("summarize", "text.txt", "--smaller-bundle", "absent.es2s")
    assert done.returncode == 2


def test_a_signed_policy_switches_the_cloud_off_and_the_check_says_so(run: Run, peer: Peer, tmp_path: Path):
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", "k.pem"], cwd=tmp_path, check=True)
    policy = {"version": 1, "expires": "2100-01-01T00:00:00Z", "cloud_enabled": False}
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    done = run("cloud", "sign", "policy.json", "--key", "k.pem")
    assert done.returncode == 0, done.stderr
    (tmp_path / "signed.json").write_text(done.stdout)
    tables = f'[cloud]\nbase_url = "http://127.0.0.1:{peer.port}/v1"\nmodel = "teacher"\n'
    tables += f'state_dir = "state"\nremote_policy = "signed.json"\n{done.stderr}'
    (tmp_path / "off.toml").write_text(tables)
    done = run("summarize", "text.txt", "--cloud", "off.toml", "--privacy", "allow", "--json")
    values = json.loads(done.stdout)
    assert values["origin"] == "device"
    assert "cloud_kill_switch" in values["reasons"]
    done = run("cloud", "check", "off.toml")
    assert done.returncode == 1
    assert "✗ openai_chat: the remote policy switches the cloud off (kill_switch)" in done.stdout
    assert "✓ remote policy: version 1, until 2100-01-01T00:00:00Z" in done.stdout
    assert peer.requests == []


def test_on_a_terminal_the_clouds_answer_follows_the_draft(run: Run, tmp_path: Path, tiny_bundle: Path):
    run("cloud", "check", "cloud.toml")  # writes the configuration
    terminal, end = pty.openpty()
    command = [*COMMAND, "summarize", "text.txt", "--cloud", "cloud.toml", "--privacy", "allow", "--bundle"]
    done = subprocess.run([*command, str(tiny_bundle)], stdout=end, stderr=subprocess.PIPE, cwd=tmp_path)
    os.close(end)
    shown = os.read(terminal, 1 << 16).decode(errors="replace").replace("\r\n", "\n")
    os.close(terminal)
    assert (done.returncode, done.stderr) == (0, b"")
    assert shown.endswith(f"\n\nThe cloud answers:\n\n{ANSWER}\n"), shown
    assert not shown.startswith("\n\nThe cloud")


def test_cloud_check_finds_every_protocol_and_sends_no_text_of_the_user(run: Run, peer: Peer):
    done = run("cloud", "check", "cloud.toml")
    assert (done.returncode, done.stderr) == (0, "")
    first, oip, generate = done.stdout.splitlines()
    assert first.startswith(f"✓ openai_chat: '{ANSWER}' in ")
    assert 'protocol = "open_inference", base_url = ' in oip
    assert 'input_name = "document"' in oip
    assert 'protocol = "generate_endpoint"' in generate
    assert all(SENTENCE in json.dumps(r.body) for r in peer.requests if r.method == "POST")


def test_cloud_check_says_what_is_wrong(run: Run, tmp_path: Path):
    config = CloudConfig(base_url="http://127.0.0.1:1/v1", model="m", state_dir=str(tmp_path / "state"))
    [failed] = check(config)
    assert not failed.ok
    assert "connect" in failed.detail
    done = run("cloud", "check", "absent.toml")
    assert (done.returncode, done.stderr) == (1, "edge-s2s: error: absent.toml: No such file or directory\n")
