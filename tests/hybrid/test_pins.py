"""Pins of an endpoint's key, against a real TLS server on this machine."""

import base64
import hashlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from edge_s2s.errors import CloudError
from edge_s2s.hybrid.client import CloudClient
from edge_s2s.hybrid.config import CloudConfig
from edge_s2s.hybrid.pins import check_pin, pin_of
from hybrid.peers import ANSWER, Peer

OTHER = base64.b64encode(hashlib.sha256(b"another key").digest()).decode()
AUTHORITY = trustme.CA()


def issue() -> tuple[ssl.SSLContext, bytes]:
    """A server's context with a new key, and its certificate, PEM."""
    certificate = AUTHORITY.issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context, certificate.cert_chain_pems[0].bytes()


def pin(pem: bytes) -> str:
    return pin_of(ssl.PEM_cert_to_DER_cert(pem.decode()))


@pytest.fixture
def ca_file(tmp_path: Path) -> str:
    AUTHORITY.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


@pytest.fixture
def listener() -> Iterator[tuple[int, bytes, list[bytes]]]:
    """A TLS server that keeps what it is sent after the handshake: port, certificate, bytes."""
    context, pem = issue()
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    sock, _ = server.accept()
                except OSError:
                    return
                with context.wrap_socket(sock, server_side=True) as tls:
                    tls.settimeout(10)
                    received.append(tls.recv(1))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], pem, received
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def ask(config: CloudConfig) -> str:
    return CloudClient(config).complete("A text", max_new_tokens=20).text


def test_the_right_key_answers_also_as_the_second_of_two(ca_file: str, tmp_path: Path):
    context, pem = issue()
    with Peer(tls=context) as peer:
        config = peer.config("openai_chat", ca_file=ca_file, pins=[OTHER, pin(pem)], state_dir=str(tmp_path))
        assert ask(config) == ANSWER


def test_another_key_is_refused_before_a_byte_is_sent(
    listener: tuple[int, bytes, list[bytes]], ca_file: str, tmp_path: Path
):
    """The certificate is right in every other way. A retry would not help and is not made."""
    port, pem, received = listener
    config = CloudConfig(
        base_url=f"https://127.0.0.1:{port}/v1",
        model="m",
        ca_file=ca_file,
        pins=[OTHER],
        state_dir=str(tmp_path),
        timeout_s=20,
    )
    with pytest.raises(CloudError, match="not one of pins") as caught:
        ask(config)
    assert caught.value.reason == "tls"
    assert pin(pem) in str(caught.value), "what is there can be compared with what the operator says"
    for _ in range(1000):
        if received:
            break
        threading.Event().wait(0.01)
    assert received == [b""], "the connection was closed, and nothing came before"


def test_a_right_pin_does_not_replace_a_trusted_certificate(tmp_path: Path):
    context, pem = issue()
    with Peer(tls=context) as peer:
        config = peer.config("openai_chat", pins=[pin(pem)], state_dir=str(tmp_path))
        with pytest.raises(CloudError, match="no trusted connection") as caught:
            ask(config)
    assert caught.value.reason == "tls"
    assert peer.requests == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_pin_is_what_openssl_makes_of_the_key(tmp_path: Path):
    _, pem = issue()
    (tmp_path / "cert.pem").write_bytes(pem)
    command = "openssl x509 -in cert.pem -pubkey -noout | openssl pkey -pubin -outform der"
    command += " | openssl dgst -sha256 -binary | base64"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == pin(pem)


def test_a_certificate_that_cannot_be_read_is_a_tls_error():
    for certificate in (None, b"", b"0" * 100):
        with pytest.raises(CloudError) as caught:
            check_pin(certificate, [OTHER])
        assert caught.value.reason == "tls"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pins": ["abc"]}, "pins: expected base64 of a SHA-256"),
        ({"pins": [f"sha256/{OTHER}"]}, "pins: expected base64 of a SHA-256"),
        ({"pins": OTHER}, "pins: did not expect"),
        ({"pins": [OTHER], "base_url": "http://127.0.0.1/v1"}, "pins: expected https"),
    ],
)
def test_what_is_no_pin_is_refused(change: dict[str, object], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        CloudConfig(**{"base_url": "https://host/v1", "model": "m", **change})  # type: ignore[arg-type]
