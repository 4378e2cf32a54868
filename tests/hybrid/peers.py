"""A server on this machine that speaks the three protocols, and does to a response whatever a test wants."""

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

from edge_s2s.hybrid.config import CloudConfig

ANSWER = "They meet at seven."
PROTOCOLS = ("openai_chat", "open_inference", "generate_endpoint")
_PREFIX = {"openai_chat": "/v1", "open_inference": "/v2", "generate_endpoint": "/v2"}


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream")) or self.path.endswith("generate_stream")


Handler = Callable[[socket.socket, Request], None]


def answer_of(request: Request, text: str = ANSWER) -> dict[str, Any]:
    """The JSON of a good whole answer."""
    if request.path.endswith("/infer"):
        return {"model_name": "teacher", "outputs": [
            {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]}  # fmt: skip
    if "generate" in request.path:
        return {"model_name": "teacher", "text_output": text, "details": {"finish_reason": "eos_token"}}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 30, "completion_tokens": 7, "total_tokens": 37}
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "teacher",
        "choices": [choice],
        "usage": usage,
    }


def events_of(request: Request, text: str = ANSWER) -> list[dict[str, Any]]:
    """The JSON of the events of a good stream."""
    pieces = [text[i : i + 5] for i in range(0, len(text), 5)]
    if "generate" in request.path:
        answers = [answer_of(request, piece) for piece in pieces]
        return [*({**answer, "details": {}} for answer in answers[:-1]), answers[-1]]
    base = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "teacher"}
    chunks = [
        {**base, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
        for piece in pieces
    ]
    chunks.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({**base, "choices": [], "usage": answer_of(request)["usage"]})
    return chunks


def body_of(request: Request, text: str = ANSWER) -> bytes:
    """The body of a good response, as a stream if one was asked for."""
    if not request.stream:
        return json.dumps(answer_of(request, text)).encode()
    events = [f"data: {json.dumps(event)}\n\n" for event in events_of(request, text)]
    return "".join([*events, "data: [DONE]\n\n" if request.path.endswith("completions") else ""]).encode()


def head_of(request: Request, length: int | None, status: str = "200 OK", **headers: str) -> bytes:
    """The head of a response; without a length, its body is chunked."""
    kind = "text/event-stream" if request.stream else "application/json"
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    kind_line = "" if "Content_Type" in headers else f"Content-Type: {kind}\r\n"
    return f"HTTP/1.1 {status}\r\n{kind_line}{framing}\r\n{extra}\r\n".encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def respond(sock: socket.socket, request: Request) -> None:
    """A good response; streams come in chunks, an event each."""
    body = body_of(request)
    if not request.stream:
        sock.sendall(head_of(request, len(body)) + body)
        return
    sock.sendall(head_of(request, None))
    for event in body.split(b"\n\n")[:-1]:
        sock.sendall(chunk(event + b"\n\n"))
    sock.sendall(b"0\r\n\r\n")


@dataclass
class Peer:
    """A server; use it as a context manager. `requests` are those that came."""

    handler: Handler = respond
    tls: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._sockets: set[socket.socket] = set()
        self._open = True
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open = False
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for sock in list(self._sockets):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    @property
    def port(self) -> int:
        port: int = self._server.getsockname()[1]
        return port

    def config(self, protocol: str, **changes: Any) -> CloudConfig:
        host = changes.pop("host", "127.0.0.1")
        scheme = "http" if self.tls is None else "https"
        url = f"{scheme}://{host}:{self.port}{_PREFIX[protocol]}"
        values = {"max_attempts": 1, "max_requests_per_minute": 10_000, "model": "teacher", **changes}
        values |= {"protocol": protocol, "base_url": url}
        return CloudConfig(**values)

    def _accept(self) -> None:
        while self._open:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        self._sockets.add(sock)
        with sock, suppress(OSError, ValueError):
            served = sock if self.tls is None else self.tls.wrap_socket(sock, server_side=True)
            self._sockets.add(served)
            with served:
                request = _read_request(served)
                self.requests.append(request)
                self.handler(served, request)
        self._sockets -= {sock}


def _read_request(sock: socket.socket) -> Request:
    with sock.makefile("rb") as file:
        method, path, _ = file.readline().decode().split()
        headers = {}
        while line := file.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = json.loads(file.read(int(headers.get("content-length", 0))) or b"{}")
    return Request(method, path, headers, body)


@contextmanager
def black_hole() -> Iterator[int]:
    """A port where a SYN gets no answer: its queue is full and nobody accepts (Linux)."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(server.getsockname())
            fillers.append(filler)
        try:
            yield server.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()
