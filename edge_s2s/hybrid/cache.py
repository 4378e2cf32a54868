"""Answers of the cloud, kept in memory for texts that come again. Off unless a HybridModel is given one.

An answer is found by what was asked: endpoint, model, instruction, length and text. Keys are HMACs under a
key of the tenant, so they say nothing about texts, and what was answered to one tenant is never found by
another. Kept is what came over the network: with `privacy="redacted"` placeholders, not what they stand for.
"""

import hashlib
import hmac
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from edge_s2s.hybrid.config import CloudConfig
from edge_s2s.hybrid.wire import CloudAnswer

_ENTRY_BYTES = 512  # of an entry besides its text


class AnswerCache:
    """Answers for one tenant, at most `max_bytes`, none older than `max_age_s`; the least used go first."""

    def __init__(
        self,
        *,
        max_bytes: int = 1 << 20,
        max_age_s: float = 3600.0,
        tenant_key: bytes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._tenant_key = secrets.token_bytes(32) if tenant_key is None else tenant_key
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, tuple[float, CloudAnswer]] = OrderedDict()
        self._n_bytes = 0

    def get(self, config: CloudConfig, text: str, max_new_tokens: int) -> CloudAnswer | None:
        """The answer to the same question, if it is kept and young enough."""
        key = self._key(config, text, max_new_tokens)
        with self._lock:
            if (entry := self._entries.get(key)) is None:
                return None
            if self._clock() - entry[0] > self._max_age_s:
                self._remove(key)
                return None
            self._entries.move_to_end(key)
            return entry[1]

    def put(self, config: CloudConfig, text: str, max_new_tokens: int, answer: CloudAnswer) -> None:
        """Keeps an answer, unless it alone is too large."""
        if _size(answer) > self._max_bytes:
            return
        key = self._key(config, text, max_new_tokens)
        with self._lock:
            if key in self._entries:
                self._remove(key)
            self._entries[key] = self._clock(), answer
            self._n_bytes += _size(answer)
            while self._n_bytes > self._max_bytes:
                self._remove(next(iter(self._entries)))

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._entries.clear()
            self._n_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def _remove(self, key: bytes) -> None:
        self._n_bytes -= _size(self._entries.pop(key)[1])

    def _key(self, config: CloudConfig, text: str, max_new_tokens: int) -> bytes:
        asked = [config.protocol, config.base_url, config.model, config.instruction, max_new_tokens, text]
        return hmac.digest(self._tenant_key, json.dumps(asked).encode(), hashlib.sha256)


def _size(answer: CloudAnswer) -> int:
    return _ENTRY_BYTES + 4 * len(answer.text)
