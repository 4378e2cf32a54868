"""What a network and a server can do wrong: 24 faults, some of them in several forms.

A fault is a server, and the reasons that a call to it may end with; None is the right answer.
"""

import gzip
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import trustme

from edge_s2s.hybrid.config import CloudConfig
from hybrid.peers import (
    Handler,
    Peer,
    Request,
    answer_of,
    black_hole,
    body_of,
    chunk,
    events_of,
    head_of,
    respond,
)

Make = Callable[[str], CloudConfig]
SLOW_HOST, UNKNOWN_HOST, LOCAL_HOST = "slow.test", "unknown.test", "named.test"

AUTHORITY = trustme.CA()


def resolve(real: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """The system's resolver, but for the hosts of this file."""

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        if host == SLOW_HOST:
            time.sleep(seconds)
        if host == UNKNOWN_HOST:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        local = host in (SLOW_HOST, LOCAL_HOST)
        return real("127.0.0.1" if local else host, *args, **kwargs)

    return getaddrinfo


# -------------------------------------------------- handlers ------------------------------------------------


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _good(request: Request) -> bytes:
    body = body_of(request)
    return head_of(request, len(body)) + body


def rst_before_headers(sock: socket.socket, request: Request) -> None:
    _reset(sock)


def rst_mid_body(sock: socket.socket, request: Request) -> None:
    sock.sendall(_good(request)[:-30])
    time.sleep(0.05)
    _reset(sock)


def fin_mid_body(sock: socket.socket, request: Request) -> None:
    sock.sendall(_good(request)[:-30])


def fin_mid_chunk(sock: socket.socket, request: Request) -> None:
    sock.sendall(head_of(request, None) + chunk(body_of(request))[:-30])


def _drip(sock: socket.socket, data: bytes) -> None:
    for i in range(len(data)):
        sock.sendall(data[i : i + 1])
        time.sleep(0.02)


def drip_headers(sock: socket.socket, request: Request) -> None:
    _drip(sock, head_of(request, 10, X_Long="x" * 500))


def drip_endless_headers(sock: socket.socket, request: Request) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\nX-A: ")
    _drip(sock, b"x" * 500)


def drip_body(sock: socket.socket, request: Request) -> None:
    body = body_of(request)
    sock.sendall(head_of(request, len(body)))
    _drip(sock, body)


def stall(sock: socket.socket, request: Request) -> None:
    sock.sendall(_good(request)[:-30])
    sock.recv(1)


def silence(sock: socket.socket, request: Request) -> None:
    sock.recv(1)


def _flood(sock: socket.socket, data: bytes, n_bytes: int = 1 << 30) -> None:
    piece = data * ((1 << 16) // len(data))
    for _ in range(n_bytes // len(piece)):
        sock.sendall(piece)


def body_of_1_gib(sock: socket.socket, request: Request) -> None:
    sock.sendall(head_of(request, 1 << 30))
    _flood(sock, b"x")


def endless_stream(sock: socket.socket, request: Request) -> None:
    sock.sendall(head_of(request, None))
    event = f"data: {json.dumps(events_of(request)[0] if request.stream else answer_of(request))}\n\n"
    _flood(sock, chunk(event.encode()))


def endless_chunk_line(sock: socket.socket, request: Request) -> None:
    sock.sendall(head_of(request, None))
    _flood(sock, b"0")


def endless_header(sock: socket.socket, request: Request) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\nX-A: ")
    _flood(sock, b"x")


def endless_headers(sock: socket.socket, request: Request) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\n")
    _flood(sock, b"X-A: b\r\n")


def gzip_bomb(sock: socket.socket, request: Request) -> None:
    body = gzip.compress(bytes(10 << 20))
    sock.sendall(head_of(request, len(body), Content_Encoding="gzip") + body)


def length_too_long(sock: socket.socket, request: Request) -> None:
    body = body_of(request)
    sock.sendall(head_of(request, len(body) + 99) + body)


def length_too_short(sock: socket.socket, request: Request) -> None:
    body = body_of(request)
    sock.sendall(head_of(request, len(body) // 2) + body)


def length_no_number(sock: socket.socket, request: Request) -> None:
    body = body_of(request)
    sock.sendall(head_of(request, None).replace(b"Transfer-Encoding: chunked", b"Content-Length: -3x") + body)


def garbage_chunks(sock: socket.socket, request: Request) -> None:
    sock.sendall(head_of(request, None) + b"zz\r\n" + body_of(request))


def garbage_http(sock: socket.socket, request: Request) -> None:
    sock.sendall(b"\x00\xff garbage\r\n\r\n")


def captive_portal(sock: socket.socket, request: Request) -> None:
    body = b"<html>Please log in</html>"
    sock.sendall(head_of(request, len(body), Content_Type="text/html") + body)


def network_login(sock: socket.socket, request: Request) -> None:
    body = b"<html>Please log in</html>"
    sock.sendall(
        head_of(request, len(body), "511 Network Authentication Required", Content_Type="text/html") + body
    )


def status(line: str, **headers: str) -> Handler:
    def handler(sock: socket.socket, request: Request) -> None:
        body = b'{"error": {"message": "no"}}'
        sock.sendall(head_of(request, len(body), line, Content_Type="application/json", **headers) + body)

    return handler


def whole(data: bytes | Callable[[Request], Any]) -> Handler:
    """A body instead of the good one: bytes, or the JSON that a function makes of the request."""

    def handler(sock: socket.socket, request: Request) -> None:
        body = data if isinstance(data, bytes) else json.dumps(data(request)).encode()
        if request.stream:
            body = b"data: " + body + b"\n\n"
        sock.sendall(head_of(request, len(body)) + body)

    return handler


def _renamed(request: Request) -> dict[str, Any]:
    event = events_of(request)[0] if request.stream else answer_of(request)
    return {name: ("other" if value == "teacher" else value) for name, value in event.items()}


# --------------------------------------------------- faults -------------------------------------------------


@contextmanager
def _serving(handler: Handler, **changes: Any) -> Iterator[Make]:
    with Peer(handler) as peer:
        yield lambda protocol: peer.config(protocol, **changes)


def _config(url: str, protocol: str) -> CloudConfig:
    return CloudConfig(base_url=url, model="teacher", protocol=protocol, max_attempts=1)  # type: ignore[arg-type]


@contextmanager
def _refused() -> Iterator[Make]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # and does not listen
        yield lambda protocol: _config(f"http://127.0.0.1:{server.getsockname()[1]}/v1", protocol)


@contextmanager
def _black_hole() -> Iterator[Make]:
    with black_hole() as port:
        yield lambda protocol: _config(f"http://127.0.0.1:{port}/v1", protocol)


@contextmanager
def _tls(name: str, *, expired: bool = False, known: bool = True) -> Iterator[Make]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    past = datetime.now(UTC) - timedelta(days=9)
    certificate = AUTHORITY.issue_cert(name, not_after=past if expired else None)
    certificate.configure_cert(context)
    with AUTHORITY.cert_pem.tempfile() as ca_file, Peer(respond, context) as peer:
        changes = {"host": LOCAL_HOST, "ca_file": ca_file if known else None}
        yield lambda protocol: peer.config(protocol, **changes)


@contextmanager
def _tls_garbage(data: bytes) -> Iterator[Make]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            held = []
            while True:
                try:
                    sock, _ = server.accept()
                    sock.sendall(data)
                    held.append(sock)
                except OSError:
                    break
            for sock in held:
                sock.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"https://{LOCAL_HOST}:{server.getsockname()[1]}/v1"
        yield lambda protocol: _config(url, protocol)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


Fault = tuple[Callable[[], Any], Sequence[str | None]]


def faults() -> dict[str, Fault]:
    """Each one's endpoint, and the reasons that a call may end with."""
    late = ("timeout",)
    invalid, broken = ("invalid_response",), ("interrupted",)

    def serving(handler: Handler, reasons: Sequence[str | None], **changes: Any) -> Fault:
        return (lambda: _serving(handler, **changes)), reasons

    long_body = ("too_large", "timeout")
    http_date = "Fri, 01 Jan 2100 00:00:00 GMT"
    return {
        "1 refused": (_refused, ("connect",)),
        "2 black hole": (_black_hole, late),
        "3 unknown host": serving(respond, ("connect",), host=UNKNOWN_HOST, allow_plain_http=True),
        "4 slow resolver": serving(respond, late, host=SLOW_HOST, allow_plain_http=True),
        "5 TLS for another name": (lambda: _tls("other.test"), ("tls",)),
        "6 TLS expired": (lambda: _tls(LOCAL_HOST, expired=True), ("tls",)),
        "6 TLS of an unknown authority": (lambda: _tls(LOCAL_HOST, known=False), ("tls",)),
        "7 TLS garbage": (lambda: _tls_garbage(b"HTTP/1.1 200 OK\r\n\r\n" * 9), ("tls",)),
        "7 TLS silence": (lambda: _tls_garbage(b""), late),
        "0 TLS that is right": (lambda: _tls(LOCAL_HOST), (None,)),
        "8 RST before headers": serving(rst_before_headers, ("connect",)),
        "8 silence": serving(silence, late),
        "9 RST in the body": serving(rst_mid_body, broken),
        "10 FIN in the body": serving(fin_mid_body, broken),
        "10 FIN in a chunk": serving(fin_mid_chunk, broken),
        "11 headers drip": serving(drip_headers, late),
        "11 an endless header drips": serving(drip_endless_headers, late),
        "12 the body drips": serving(drip_body, late),
        "13 stall": serving(stall, late),
        "14 1 GiB": serving(body_of_1_gib, long_body),
        "14 endless stream": serving(endless_stream, (*long_body, *invalid)),
        "14 endless header": serving(endless_header, (*broken, *late)),
        "14 endless headers": serving(endless_headers, (*broken, *late)),
        "14 endless chunk line": serving(endless_chunk_line, (*broken, *late)),
        "15 gzip bomb": serving(gzip_bomb, invalid),
        "16 length too long": serving(length_too_long, (None, *broken)),  # None: after [DONE] nobody reads
        "16 length too short": serving(length_too_short, invalid),
        "16 length no number": serving(length_no_number, (None, *broken)),
        "17 garbage chunks": serving(garbage_chunks, broken),
        "17 garbage": serving(garbage_http, broken),
        "18 redirect": serving(status("301 Moved", Location="http://127.0.0.1:9/v1"), ("redirect",)),
        "18 redirect with a body": serving(status("307 Moved", Location="//elsewhere.test/"), ("redirect",)),
        "19 captive portal": serving(captive_portal, invalid),
        "19 network log-in": serving(network_login, ("status",)),
        "20 429, seconds": serving(status("429 x", Retry_After="60"), ("status",), max_attempts=3),
        "20 429, date": serving(status("429 x", Retry_After=http_date), ("status",), max_attempts=3),
        "20 429, huge": serving(status("429 x", Retry_After="9" * 400), ("status",), max_attempts=3),
        "20 429, negative": serving(status("429 x", Retry_After="-5"), ("status", "timeout"), max_attempts=3),
        "21 5xx burst": serving(status("503 x"), ("status", "timeout"), max_attempts=3),
        "22 error after 200": serving(whole(lambda _: {"error": {"message": "no"}}), invalid),
        "23 invalid UTF-8": serving(whole(b'{"a": "\xff\xfe"}'), invalid),
        "23 no JSON": serving(whole(b"{]"), invalid),
        "23 NaN": serving(whole(b'{"a": NaN}'), invalid),
        "23 deep": serving(whole(b"[" * 100_000), invalid),
        "24 another schema": serving(whole(lambda _: {"choices": [{}], "outputs": 3}), invalid),
        "24 empty": serving(whole(lambda request: answer_of(request, "")), invalid),
        "24 another model": serving(whole(_renamed), invalid),
    }  # fmt: skip


FLOODS = [name for name in faults() if name.startswith(("14", "15"))]
NUMBERS = {int(name.split()[0]) for name in faults()} - {0}
