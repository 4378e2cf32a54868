"""Where a remote policy comes from, and the last good one, which holds where there is no better one.

No better one is one that cannot be read, that no key has signed, whose version is below the one that is kept,
or that has its version and says something else.
"""

import os
import secrets
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from urllib.parse import urlsplit

from edge_s2s.errors import CloudError
from edge_s2s.hybrid.exchange import Exchange, tls_context
from edge_s2s.hybrid.remote_policy import RemotePolicy, parse_policy, verified_payload

KEPT, INSTALL_ID = "remote_policy.json", "install_id"
_MAX_BYTES = 1 << 16
_FETCH_S = 3.0  # that a request waits for a new policy at most
_RETRY_S = 300.0


class PolicySource:
    """A file, which is read for each request, or a URL, which is asked once in `refresh_s`.

    It may be used by any number of threads. `folder` is where the last good policy is kept.
    """

    def __init__(
        self,
        source: str,
        keys: Collection[str],
        folder: Path,
        *,
        refresh_s: float,
        ca_file: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source, self._keys, self._folder = source, keys, folder
        self._is_url = "://" in source
        self._refresh_s, self._ca_file, self._clock = refresh_s, ca_file, clock
        self._lock = threading.Lock()
        self._not_before = 0.0
        self.problem: str | None = None
        """Why the newest one was not taken"""

    def check(self, deadline: float) -> None:
        """CloudError `kill_switch` if the policy forbids the cloud; may fetch a new one."""
        policy = self.current(deadline)
        if policy is None:
            return
        try:
            device = self._install_id()
        except OSError as error:
            raise CloudError("kill_switch", f"{self._folder}: cannot keep an id: {error}") from error
        if (reason := policy.forbids_cloud(device, self._clock())) is not None:
            raise CloudError("kill_switch", reason)

    def blocks(self, bundle_digest: str) -> bool:
        """Whether a bundle must not answer any more, as far as is known without a connection."""
        policy = self.current(None)
        return policy is not None and bundle_digest in policy.blocked_bundles

    def current(self, deadline: float | None) -> RemotePolicy | None:
        """The policy that holds; None before the first. Without a `deadline` no connection is opened."""
        if self._is_due(deadline) and self._lock.acquire(blocking=False):  # one thread asks, others go on
            try:
                self._renew(deadline)
            finally:
                self._lock.release()
        kept = self._kept()
        return None if kept is None else parse_policy(kept)

    def _is_due(self, deadline: float | None) -> bool:
        if not self._is_url:
            return True
        if deadline is None or time.monotonic() < self._not_before:
            return False
        try:
            age = self._clock() - (self._folder / KEPT).stat().st_mtime
        except OSError:
            return True
        return not 0 <= age < self._refresh_s or self._kept() is None

    def _renew(self, deadline: float | None) -> None:
        try:
            envelope = self._fetch(deadline) if self._is_url else _read(Path(self._source).expanduser())
            payload, kept = verified_payload(envelope, self._keys), self._kept()
            if kept is not None and payload != kept:
                version, seen = parse_policy(payload).version, parse_policy(kept).version
                if version <= seen:
                    raise ValueError(f"remote policy: expected a version above {seen}, found {version}")
            parse_policy(payload)
            if payload != kept:
                _write(self._folder / KEPT, envelope)
            now = self._clock()
            os.utime(self._folder / KEPT, (now, now))
        except (CloudError, OSError, ValueError) as error:
            self.problem = str(error)
            self._not_before = time.monotonic() + min(_RETRY_S, self._refresh_s)
        else:
            self.problem = None

    def _fetch(self, deadline: float | None) -> bytes:
        url = urlsplit(self._source)
        until = time.monotonic() + _FETCH_S
        with Exchange(
            url,
            "GET",
            url.path or "/",
            headers={"Accept-Encoding": "identity", "User-Agent": "edge_s2s"},
            body=None,
            deadline=until if deadline is None else min(until, deadline),
            max_response_bytes=_MAX_BYTES,
            ssl_context=tls_context(url, self._ca_file),
        ) as exchange:
            status, _ = exchange.head()
            if status != 200:
                raise CloudError("status", f"the remote policy answers HTTP {status}", status=status)
            return b"".join(exchange.chunks())

    def _kept(self) -> bytes | None:
        """The last good policy; None if there is none that the keys have signed."""
        try:
            payload = verified_payload(_read(self._folder / KEPT), self._keys)
            parse_policy(payload)
        except (OSError, ValueError):
            return None
        return payload

    def _install_id(self) -> bytes:
        """A random number that stays on the device."""
        file = self._folder / INSTALL_ID
        for _ in range(2):
            try:
                device = bytes.fromhex(file.read_text(encoding="ascii"))
                if len(device) == 32:
                    return device
            except (FileNotFoundError, ValueError):
                pass
            _write(file, secrets.token_hex(32).encode())
        return bytes.fromhex(file.read_text(encoding="ascii"))


def _read(file: Path) -> bytes:
    with file.open("rb") as opened:
        data = opened.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"{file}: expected {_MAX_BYTES} bytes at most")
    return data


def _write(file: Path, data: bytes) -> None:
    """All of it or nothing, readable for its owner alone."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    temporary.replace(file)
