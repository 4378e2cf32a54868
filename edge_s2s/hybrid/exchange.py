"""One HTTP request and its answer, over by a deadline whatever the other side does.

A timeout of a socket is none: it begins anew with every byte. So a thread talks to the server, and the caller
waits for what it has to say until the deadline, then shuts the socket, which ends the thread. A look-up of a
name cannot be interrupted; a thread that hangs in one is left behind, ends when the system's resolver does,
and opens nothing then.

Every exchange has a connection of its own. Redirects are answers like others; the caller refuses them.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import Self
from urllib.parse import SplitResult

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from edge_s2s.errors import CloudError
from edge_s2s.hybrid.pins import check_pin

_PIECE = 1 << 14  # bytes read at most at a time


class Exchange:
    """Sends a request when it is made; close it, or use it as a context manager.

    `deadline` is a moment of time.monotonic(); `pins`, if any, are the keys that the server may have. What
    goes wrong is a CloudError, whose reason is `connect`, `tls`, `timeout`, `interrupted` or `too_large`.
    """

    def __init__(
        self,
        url: SplitResult,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        deadline: float,
        max_response_bytes: int,
        ssl_context: ssl.SSLContext | None = None,
        pins: Collection[str] = (),
    ) -> None:
        self._url = url
        self._request = (method, path, body, {"Host": url.netloc, "Connection": "close", **headers})
        self._deadline = deadline
        self._max_bytes = max_response_bytes
        self._ssl_context = ssl_context
        self._pins = pins
        self._messages: SimpleQueue[tuple[int, Mapping[str, str]] | bytes | CloudError | None] = SimpleQueue()
        self._connection: HTTPConnection | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge_s2s cloud", daemon=True)
        self._thread.start()

    def head(self) -> tuple[int, Mapping[str, str]]:
        """Status and headers, these in lower case."""
        message = self._next()
        assert isinstance(message, tuple)
        return message

    def chunks(self) -> Iterator[bytes]:
        """The body, as it comes."""
        while isinstance(message := self._next(), bytes):
            yield message

    def close(self) -> None:
        """Ends the exchange, in whatever state it is."""
        self._closed.set()
        connection = self._connection
        sock = None if connection is None else connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):  # not connected any more
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # SSLSocket's own would race with the reader

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _next(self) -> tuple[int, Mapping[str, str]] | bytes | None:
        try:
            message = self._messages.get(timeout=max(0.0, self._deadline - time.monotonic()))
        except Empty:
            self.close()
            message = _late()
        if isinstance(message, CloudError):
            raise message
        return message

    def _run(self) -> None:
        try:
            self._talk()
            self._messages.put(None)
        except CloudError as error:
            self._messages.put(error)
        except Exception as error:
            self._messages.put(_cloud_error(error))
        finally:
            if self._connection is not None:
                self._connection.close()

    def _talk(self) -> None:
        connection = self._connect()
        if self._closed.is_set():
            return
        method, path, body, headers = self._request
        connection.request(
            method, path, body=body, headers=headers, preload_content=False, decode_content=False
        )
        with contextlib.closing(connection.getresponse()) as response:
            self._messages.put((response.status, {name.lower(): v for name, v in response.headers.items()}))
            n_bytes = 0
            # read1 decodes chunks with bounded lines; stream() would read a line of any length.
            while piece := response.read1(_PIECE, decode_content=False):
                n_bytes += len(piece)
                if n_bytes > self._max_bytes:
                    raise CloudError("too_large", f"the answer has more than {self._max_bytes} bytes")
                if time.monotonic() > self._deadline or self._closed.is_set():
                    raise _late()
                self._messages.put(piece)

    def _connect(self) -> HTTPConnection:
        """To the first address of the host that accepts; each one has only the time that is left."""
        host, port = self._url.hostname, self._url.port or (443 if self._url.scheme == "https" else 80)
        assert host is not None
        error: Exception = _late()
        for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            timeout = self._deadline - time.monotonic()
            if timeout <= 0 or self._closed.is_set():
                raise _late()
            connection = self._connection_to(str(address[0]), host, port, timeout)
            self._connection = connection
            try:
                connection.connect()
            except (OSError, urllib3.exceptions.HTTPError) as found:
                connection.close()
                error = found
            else:
                if self._pins:  # nothing has been sent yet
                    assert isinstance(connection.sock, ssl.SSLSocket)
                    check_pin(connection.sock.getpeercert(binary_form=True), self._pins)
                return connection
        raise error

    def _connection_to(self, address: str, host: str, port: int, timeout: float) -> HTTPConnection:
        if self._url.scheme == "http":
            return HTTPConnection(address, port, timeout=timeout)
        return HTTPSConnection(
            address, port, timeout=timeout, ssl_context=self._ssl_context, server_hostname=host
        )


def tls_context(url: SplitResult, ca_file: str | None) -> ssl.SSLContext | None:
    """What an https URL needs; `ca_file` has certificates to trust instead of the system's."""
    if url.scheme == "http":
        return None
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _late() -> CloudError:
    return CloudError("timeout", "the cloud did not answer before the deadline")


def _cloud_error(error: Exception) -> CloudError:
    """By what the network libraries raise; their messages have addresses and states, no headers."""
    # urllib3 counts a refused connection among its timeouts, and TLS errors are OSErrors.
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return CloudError("connect", f"no connection: {error}")
    if isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError):
        return _late()
    if isinstance(error, ssl.SSLError | ssl.CertificateError | urllib3.exceptions.SSLError):
        return CloudError("tls", f"no trusted connection: {error}")
    if isinstance(error, OSError):
        return CloudError("connect", f"no connection: {error}")
    return CloudError("interrupted", f"the answer broke off or is not HTTP: {type(error).__name__}")
