"""Asks a cloud endpoint for one answer, within a deadline, a budget and the limits of the configuration.

    client = CloudClient(CloudConfig(base_url="https://host/v1", model="teacher"))
    answer = client.complete("A long text", max_new_tokens=60)

Whatever does not work is a CloudError with its `reason`.
"""

import json
import math
import os
import random
import statistics
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace

from edge_s2s.errors import CloudError
from edge_s2s.hybrid import generate_endpoint, open_inference, openai_chat
from edge_s2s.hybrid.breaker import CircuitBreaker
from edge_s2s.hybrid.config import SWITCH, CloudConfig
from edge_s2s.hybrid.exchange import Exchange, tls_context
from edge_s2s.hybrid.policy_source import PolicySource
from edge_s2s.hybrid.retries import RetryBudget, backoff_s, is_retriable, retry_after_s
from edge_s2s.hybrid.usage import CloudUsage
from edge_s2s.hybrid.wire import (
    CloudAnswer,
    CloudRequest,
    Json,
    Protocol,
    error_message,
    events,
    invalid,
    parse,
)
from edge_s2s.worker import run_to_end

PROTOCOLS: Mapping[str, Protocol] = {
    "openai_chat": openai_chat,
    "open_inference": open_inference,
    "generate_endpoint": generate_endpoint,
}
DISABLED_FILE = "cloud.disabled"
_DEFAULT_FIRST_TOKEN_S = 0.8
_CHARS_PER_TOKEN = 16  # no answer has more; four times what languages need


class CloudClient:
    """A cloud endpoint, for any number of threads.

    `environ` has the key and the switch `EDGE_S2S_CLOUD`; `clock` is a monotonic one, `wall_clock` Unix time.
    """

    def __init__(
        self,
        config: CloudConfig,
        *,
        environ: Mapping[str, str] = os.environ,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self.config = config
        self._protocol = PROTOCOLS[config.protocol]
        self._environ = environ
        self._wall_clock = wall_clock
        self._rng = random.Random() if rng is None else rng
        self._api_key = config.read_api_key(environ)
        self._ssl_context = tls_context(config.url, config.ca_file)
        self._retry_budget = RetryBudget()
        self._first_token_s: deque[float] = deque(maxlen=64)
        self.breaker = CircuitBreaker(rng=self._rng)
        self.usage = CloudUsage(
            config.state_path,
            max_requests=config.max_requests_per_day,
            max_tokens=config.max_tokens_per_day,
            max_requests_per_minute=config.max_requests_per_minute,
            clock=wall_clock,
        )
        self.remote_policy = None
        """What an operator forbids, where the configuration names one"""
        if config.remote_policy is not None:
            self.remote_policy = PolicySource(
                config.remote_policy,
                config.remote_policy_keys,
                config.state_path,
                refresh_s=config.remote_policy_refresh_s,
                ca_file=config.ca_file,
                clock=wall_clock,
            )

    def complete(
        self, text: str, *, max_new_tokens: int, deadline: float | None = None, stream: bool = False
    ) -> CloudAnswer:
        """The answer to a text. `deadline` is a moment of time.monotonic(); `timeout_s` holds beside it.

        `stream` has the endpoint send pieces, so that `first_token_p95_s` learns from it.
        """
        return run_to_end(
            self.stream(text, max_new_tokens=max_new_tokens, deadline=deadline, unary=not stream)
        )

    def stream(
        self, text: str, *, max_new_tokens: int, deadline: float | None = None, unary: bool = False
    ) -> Generator[str, None, CloudAnswer]:
        """The answer in pieces, where the protocol has them; its return value is all of it, checked.

        Pieces have not been checked when they come. Leaving the generator ends the request.
        """
        latest = time.monotonic() + self.config.timeout_s
        deadline = latest if deadline is None else min(deadline, latest)
        n_tokens = min(max_new_tokens, self.config.max_tokens_per_request)
        request = CloudRequest(text, n_tokens, 0.0)
        identity = {"Idempotency-Key": str(uuid.uuid4()), "X-Request-Id": str(uuid.uuid4())}
        for attempt in range(1, self.config.max_attempts + 1):
            try:
                answer = yield from self._attempt(request, deadline, identity, stream=not unary)
            except _AfterFirstPieceError as error:
                raise error.cause from None
            except CloudError as error:
                self._wait_for_retry(error, attempt, deadline)
            else:
                if attempt == 1:
                    self._retry_budget.success()
                return answer
        raise AssertionError("unreachable: the last attempt returns or raises")

    def check_switches(self, deadline: float) -> None:
        """CloudError `kill_switch` if environment, state folder or the remote policy switch the cloud off."""
        if self._environ.get(SWITCH, "").strip().lower() in ("off", "0", "false", "no"):
            raise CloudError("kill_switch", f"{SWITCH} is off")
        if (file := self.config.state_path / DISABLED_FILE).exists():
            raise CloudError("kill_switch", f"{file} exists")
        if self.remote_policy is not None:
            self.remote_policy.check(deadline)

    @property
    def first_token_p95_s(self) -> float:
        """95th percentile of the time to the first piece; 0.8 s until there are 20 of them."""
        times = list(self._first_token_s)
        return _DEFAULT_FIRST_TOKEN_S if len(times) < 20 else statistics.quantiles(times, n=20)[-1]

    # ------------------------------------------------ one attempt -------------------------------------------

    def _attempt(
        self, request: CloudRequest, deadline: float, identity: Mapping[str, str], *, stream: bool
    ) -> Generator[str, None, CloudAnswer]:
        """Counts, asks, and tells the breaker how it went."""
        self.check_switches(deadline)
        self.breaker.enter()
        n_reserved = estimate_tokens(request.text) + request.max_new_tokens
        try:
            self.usage.reserve(n_reserved)
        except BaseException:
            self.breaker.abandon()
            raise
        ended = False
        try:
            answer = yield from self._ask(
                request, deadline, identity, stream=stream and self._protocol.STREAMS and self.config.streams
            )
            ended = True
        except CloudError as error:
            ended = True
            if error.reason == "status" and error.status is not None and not _is_outage(error.status):
                self.breaker.success()  # it answered: the fault is ours
            else:
                self.breaker.failure()
            raise
        finally:
            if not ended:
                self.breaker.abandon()
        self.breaker.success()
        self.usage.settle(n_reserved, answer.n_tokens or estimate_tokens(request.text + answer.text))
        return answer

    def _ask(
        self, request: CloudRequest, deadline: float, identity: Mapping[str, str], *, stream: bool
    ) -> Generator[str, None, CloudAnswer]:
        start = time.monotonic()
        request = replace(request, timeout_s=max(0.0, deadline - start))
        body = self._protocol.request_body(self.config, request, stream=stream)
        headers = {
            **identity,
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if stream else "application/json",
            "X-Request-Timeout-Ms": str(round(request.timeout_s * 1000)),
        }
        path = self._protocol.request_path(self.config, stream=stream)
        with self._exchange("POST", path, headers, body, deadline) as exchange:
            status, answered = exchange.head()
            self._check_head(status, answered, exchange)
            streams = stream and answered["content-type"].startswith("text/event-stream")
            read = self._read_stream if streams else self._read_whole
            return (yield from read(exchange.chunks(), request, start))

    def _exchange(
        self, method: str, path: str, headers: Mapping[str, str], body: Json | None, deadline: float
    ) -> Exchange:
        common = {"Accept-Encoding": "identity", "User-Agent": "edge_s2s"}
        if self._api_key is not None:
            common["Authorization"] = f"Bearer {self._api_key}"
        url = self.config.url
        return Exchange(
            url,
            method,
            url.path.rstrip("/") + path,
            headers={**common, **headers},
            body=None if body is None else json.dumps(body).encode(),
            deadline=deadline,
            max_response_bytes=self.config.max_response_bytes,
            ssl_context=self._ssl_context,
            pins=self.config.pins,
        )

    def get(self, path: str, deadline: float) -> Json:
        """What a GET of `base_url` + `path` answers, as JSON; for `edge-s2s cloud check`."""
        self.check_switches(deadline)
        with self._exchange("GET", path, {"Accept": "application/json"}, None, deadline) as exchange:
            status, headers = exchange.head()
            self._check_head(status, headers, exchange)
            return parse(b"".join(exchange.chunks()))

    def _check_head(self, status: int, headers: Mapping[str, str], exchange: Exchange) -> None:
        if 300 <= status < 400:
            raise CloudError(
                "redirect", f"the endpoint redirects (HTTP {status}); set base_url to where it is"
            )
        if status != 200:
            seconds = retry_after_s(headers.get("retry-after"), self._wall_clock())
            message = f"the endpoint answers HTTP {status}: {self._error_of(exchange)}"
            raise CloudError("status", message, status=status, retry_after_s=seconds)
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise invalid(
                f"the answer is packed, which was not asked for: {headers['content-encoding'][:40]!a}"
            )
        kind = headers.get("content-type", "none").partition(";")[0].strip().lower()
        if kind not in ("application/json", "text/event-stream"):
            raise invalid(f"the answer is {kind[:60]!a}, not JSON; a log-in page of the network?")

    def _error_of(self, exchange: Exchange) -> str:
        """What the body of an error says, without our key."""
        try:
            message = error_message(json.loads(b"".join(exchange.chunks())))
        except (CloudError, ValueError, AttributeError, RecursionError):
            message = "no message"
        return message if self._api_key is None else message.replace(self._api_key, "***")

    def _read_whole(
        self, chunks: Iterable[bytes], request: CloudRequest, start: float
    ) -> Generator[str, None, CloudAnswer]:
        answer = self._protocol.read_answer(self.config, parse(b"".join(chunks)))
        self._first_token_s.append(time.monotonic() - start)
        self._check_answer(answer, request)
        yield answer.text
        return answer

    def _read_stream(
        self, chunks: Iterable[bytes], request: CloudRequest, start: float
    ) -> Generator[str, None, CloudAnswer]:
        texts: list[str] = []
        last = CloudAnswer("")
        try:
            for event in self._events(chunks):
                if event.text:
                    if not texts:
                        self._first_token_s.append(time.monotonic() - start)
                    texts.append(event.text)
                    yield event.text
                last = CloudAnswer(
                    "",
                    event.finish_reason or last.finish_reason,
                    event.model or last.model,
                    event.n_tokens or last.n_tokens,
                )
            if last.finish_reason is None:
                raise invalid("the stream ended before its finish_reason; streams = false asks for none")
            answer = replace(last, text="".join(texts))
            self._check_answer(answer, request)
        except CloudError as error:
            if texts:  # the caller has seen a part: no second attempt may begin anew
                raise _AfterFirstPieceError(error) from error
            raise
        return answer

    def _events(self, chunks: Iterable[bytes]) -> Iterator[CloudAnswer]:
        for event in events(chunks):
            yield self._protocol.read_event(self.config, parse(event))

    def _check_answer(self, answer: CloudAnswer, request: CloudRequest) -> None:
        """What an answer in the right form must be besides."""
        text = answer.text
        if not text.strip():
            raise invalid("the answer is empty")
        if len(text) > _CHARS_PER_TOKEN * request.max_new_tokens:
            raise invalid(
                f"the answer has {len(text)} characters, {request.max_new_tokens} tokens were asked for"
            )
        if any(c < " " and c not in "\n\t\r" for c in text) or text.count("\ufffd") > len(text) // 100:
            raise invalid("the answer has control or replacement characters")
        names = (self.config.model, *self.config.model_aliases)
        # Services append a date to the name: gpt-4o-2024-08-06.
        if answer.model is not None and not any(
            answer.model == name or answer.model.startswith(f"{name}-") for name in names
        ):
            found = ascii(answer.model[:60])
            raise invalid(f"the model {found} answered, not {self.config.model}; is it one of model_aliases?")

    def _wait_for_retry(self, error: CloudError, attempt: int, deadline: float) -> None:
        """Returns when a retry is due; raises `error` where there must be none."""
        if attempt == self.config.max_attempts or not is_retriable(error):
            raise error
        seconds = backoff_s(attempt, self._rng) if error.retry_after_s is None else error.retry_after_s
        if not math.isfinite(seconds) or time.monotonic() + seconds >= deadline:
            raise error
        if not self._retry_budget.spend(error):
            raise error
        time.sleep(seconds)


class _AfterFirstPieceError(CloudError):
    """A failure after the first piece, which is final."""

    def __init__(self, cause: CloudError) -> None:
        super().__init__(cause.reason, cause.message, status=cause.status)
        self.cause = cause


def estimate_tokens(text: str) -> int:
    """Tokens of a text for the budget, rather too many: a token for three bytes."""
    return len(text.encode("utf-8", "replace")) // 3 + 1


def _is_outage(status: int) -> bool:
    return status >= 500 or status in (408, 429)
