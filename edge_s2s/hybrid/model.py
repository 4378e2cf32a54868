"""A local model whose answers the cloud may better, as far as the policy allows.

    hybrid = HybridModel(model, CloudClient(config), Policy(privacy="redacted"))
    best, *others = hybrid.generate(["A text"])[0]
    best.origin, best.confidence, best.reasons

The local answer is the floor: whatever the network does, it is there. The cloud's comes before it.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace

from edge_s2s.errors import CloudError, InputTooLongError
from edge_s2s.faithfulness import Evidence
from edge_s2s.generation import Generation, GenerationOptions, GenerationStats, Replacement
from edge_s2s.hybrid.cache import AnswerCache
from edge_s2s.hybrid.client import CloudClient
from edge_s2s.hybrid.device import Governor, Step
from edge_s2s.hybrid.policy import (
    ONLY_IN_CLOUD,
    ONLY_ON_DEVICE,
    PREFER_IN_CLOUD,
    PREFER_ON_DEVICE,
    Policy,
    reasons_after,
    reasons_before,
)
from edge_s2s.hybrid.redaction import Redacted, redact
from edge_s2s.hybrid.wire import CloudAnswer
from edge_s2s.model import Seq2SeqModel
from edge_s2s.worker import run_to_end

Local = Callable[[Seq2SeqModel, GenerationOptions | None], list[Generation]]

_FOR_DEVICE = 0.1  # of a deadline, kept for the local answer where the cloud is asked first
_FIRST_LOOK = 1 << 13  # characters by which the language is told


class Upgrade(Replacement):
    """A piece of a stream: the cloud's answer, in the place of the local one that was streamed before."""

    __slots__ = ()
    announcement = "The cloud answers:"


class HybridModel:
    """A model with the cloud behind it, for any number of threads.

    `cloud` None: nothing is asked. `consent` is asked for `privacy="ask"`, with the text that would be sent.
    `governor` tells how the device is; `models` are what to use instead of `model` from a step of it on,
    such as the same bundle with fewer threads, or a smaller one. One may be a function that loads it, called
    when it is first needed. `cache` keeps answers of the cloud.
    """

    def __init__(
        self,
        model: Seq2SeqModel,
        cloud: CloudClient | None = None,
        policy: Policy | None = None,
        *,
        consent: Callable[[str], bool] | None = None,
        governor: Governor | None = None,
        models: Mapping[Step, Seq2SeqModel | Callable[[], Seq2SeqModel]] | None = None,
        cache: AnswerCache | None = None,
    ) -> None:
        self.model = model
        self.cloud = cloud
        self.policy = Policy() if policy is None else policy
        self._consent = consent
        self._governor = governor
        self._models = dict(models or {})
        self._loading = threading.Lock()
        self._cache = cache

    def generate(
        self,
        texts: Iterable[str],
        options: GenerationOptions | None = None,
        *,
        truncation: bool = False,
        batch_size: int = 8,
    ) -> list[list[Generation]]:
        """As `Seq2SeqModel.generate`; where the cloud answered, its answer comes before the local ones.

        Raises CloudError where only the cloud could have answered: `only_in_cloud`, or a device that is to
        `OFFLOAD`. A text that is too long for the model and that the cloud did not answer is an
        InputTooLongError.
        """
        given = [*texts] if not isinstance(texts, str) else texts
        if isinstance(given, str) or not all(isinstance(text, str) for text in given):
            raise TypeError("texts: expected a list of texts; token ids are for the model itself")

        def local_for(text: str) -> Local:
            return lambda model, opts: model.generate([text], opts, truncation=truncation)[0]

        deadline = _deadline(options)
        drafts: list[list[Generation] | None] = [None] * len(given)
        if self._drafts_first():
            with contextlib.suppress(InputTooLongError):  # one that is too long must not spoil the others
                model, opts = self._local(options, deadline)
                drafts = [*model.generate(given, opts, truncation=truncation, batch_size=batch_size)]
        return [
            self._answer(text, options, local_for(text) if draft is None else _already(draft), deadline)
            for text, draft in zip(given, drafts, strict=True)
        ]

    def summarize(
        self,
        document: str,
        options: GenerationOptions | None = None,
        *,
        focus: str | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Generation:
        """As `Seq2SeqModel.summarize`, for any length: the best there is.

        The cloud gets a focus before the document, and an empty line between them.
        """

        def local(model: Seq2SeqModel, opts: GenerationOptions | None) -> list[Generation]:
            return [model.summarize(document, opts, focus=focus, on_progress=on_progress)]

        text = _focused(document, focus)
        return self._answer(text, options, local, _deadline(options), is_summary=True)[0]

    def stream(
        self, text: str, options: GenerationOptions | None = None, *, truncation: bool = False
    ) -> Generator[str, None, Generation]:
        """As `Seq2SeqModel.stream`. The local answer streams at once; one of the cloud follows as an Upgrade.

        Answers of the cloud come whole, as they are checked before anybody sees them.
        """

        def local(model: Seq2SeqModel, opts: GenerationOptions | None) -> Generator[str, None, Generation]:
            return model.stream(text, opts, truncation=truncation)

        return self._stream(text, options, local, is_summary=False)

    def stream_summary(
        self,
        document: str,
        options: GenerationOptions | None = None,
        *,
        focus: str | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Generator[str, None, Generation]:
        """`summarize` as a stream."""

        def local(model: Seq2SeqModel, opts: GenerationOptions | None) -> Generator[str, None, Generation]:
            return model.stream_summary(document, opts, focus=focus, on_progress=on_progress)

        return self._stream(_focused(document, focus), options, local, is_summary=True)

    # -------------------------------------------------- order of things -------------------------------------

    def _answer(
        self,
        text: str,
        options: GenerationOptions | None,
        local: Local,
        deadline: float | None,
        *,
        is_summary: bool = False,
    ) -> list[Generation]:
        """The answers to one text, the best first."""

        def draft() -> list[Generation]:
            return local(*self._local(options, deadline))

        def ask(until: float | None, begun: threading.Event | None = None) -> Generation:
            return self._ask_cloud(text, options, until, begun, is_summary=is_summary)

        if self.policy.mode == ONLY_IN_CLOUD:
            return [replace(ask(deadline), reasons=("mode",))]
        if (unfit := self._unfit()) is not None:
            reason, sentence = unfit
            try:
                return [replace(ask(deadline), reasons=(reason,))]
            except CloudError as error:
                message = f"{sentence}, and the cloud gave nothing: {error}"
                raise CloudError("kill_switch" if reason == "blocked" else reason, message) from error
        if self.policy.mode == PREFER_IN_CLOUD:
            return self._race(draft, ask, deadline)
        try:
            drafts = draft()
        except InputTooLongError as error:
            if self.policy.mode == ONLY_ON_DEVICE:
                raise
            try:
                return [replace(ask(deadline), reasons=("too_long",))]
            except CloudError as cloud_error:
                raise error from cloud_error
        return self._upgrade(text, drafts, lambda: ask(deadline))

    def _stream(
        self,
        text: str,
        options: GenerationOptions | None,
        local: Callable[[Seq2SeqModel, GenerationOptions | None], Generator[str, None, Generation]],
        *,
        is_summary: bool,
    ) -> Generator[str, None, Generation]:
        deadline = _deadline(options)
        pieces: Generator[str, None, Generation] | None = None
        if self._drafts_first():
            with contextlib.suppress(InputTooLongError):  # below, the cloud may read it
                pieces = local(*self._local(options, deadline))
        if pieces is None:
            [best, *_] = self._answer(
                text, options, lambda m, o: [run_to_end(local(m, o))], deadline, is_summary=is_summary
            )
            yield best.text
            return best
        draft = yield from pieces
        [best, *_] = self._upgrade(
            text, [draft], lambda: self._ask_cloud(text, options, deadline, is_summary=is_summary)
        )
        if best.origin == "cloud":
            yield Upgrade(best.text)
        return best

    def _upgrade(
        self, text: str, drafts: list[Generation], ask: Callable[[], Generation]
    ) -> list[Generation]:
        """The drafts, and before them the cloud's answer if the first of them gives reason to ask for one."""
        reasons = self._reasons(text, drafts[0])
        if not reasons:
            return drafts
        if self.policy.mode == ONLY_ON_DEVICE:
            return _with_reasons(drafts, reasons)
        try:
            answer = ask()
        except CloudError as error:
            return _with_reasons(drafts, [*reasons, f"cloud_{error.reason}"])
        return [replace(answer, reasons=(*reasons, *answer.reasons)), *drafts]

    def _race(
        self,
        draft: Callable[[], list[Generation]],
        ask: Callable[[float | None, threading.Event], Generation],
        deadline: float | None,
    ) -> list[Generation]:
        """The cloud's answer, unless the local one is there before the cloud has begun.

        The model starts when 95 % of the cloud's answers would have begun, so a slow cloud costs no more time
        than the model takes. A part of the deadline is kept for the model where the cloud fails.
        """
        until = None if deadline is None else deadline - _FOR_DEVICE * (deadline - time.monotonic())
        asked = _InThread(lambda begun: ask(until, begun))
        drafts: list[Generation] = []
        if not asked.begun.wait(0.0 if self.cloud is None else self.cloud.first_token_p95_s):
            with contextlib.suppress(InputTooLongError):  # then only the cloud can read it
                drafts = draft()
            if drafts and not asked.begun.is_set():
                return _with_reasons(drafts, ["mode", "cloud_slow"])
        try:
            return [replace(asked.result(), reasons=("mode",)), *drafts]
        except CloudError as error:
            return _with_reasons(drafts or draft(), ["mode", f"cloud_{error.reason}"])

    # --------------------------------------------------- the device -----------------------------------------

    def _drafts_first(self) -> bool:
        return self.policy.mode in (PREFER_ON_DEVICE, ONLY_ON_DEVICE) and self._unfit() is None

    def _unfit(self) -> tuple[str, str] | None:
        """Why the model must not answer, as a word and a sentence."""
        remote = None if self.cloud is None else self.cloud.remote_policy
        if remote is not None and remote.blocks(self.model.bundle_digest):
            return "blocked", "the remote policy blocks this bundle"
        if self._step() == Step.OFFLOAD:
            return "device", "the device is too hot, too empty or too full for the model"
        return None

    def _may_upgrade(self) -> bool:
        """Whether the confidence of a draft can change what becomes of it."""
        policy = self.policy
        asks = policy.mode == PREFER_ON_DEVICE and policy.privacy != "never"
        return policy.careful and asks and self.cloud is not None

    def _step(self) -> Step:
        return Step.FULL if self._governor is None else self._governor.step()

    def _local(
        self, options: GenerationOptions | None, deadline: float | None
    ) -> tuple[Seq2SeqModel, GenerationOptions | None]:
        """The model and the options that the device, and the time that is left, can do with."""
        step = self._step()
        if options is not None and deadline is not None:
            options = replace(options, deadline_ms=max(1, round(1000 * (deadline - time.monotonic()))))
        model = self._model_for(step)
        given = GenerationOptions() if options is None else options
        if step < Step.GREEDY and given.careful is None and self._may_upgrade():
            options = replace(given, careful=True)
        if step >= Step.GREEDY:
            options = replace(given, num_beams=1, num_beam_groups=1, do_sample=False, num_return_sequences=1)
        return model, options

    def _model_for(self, step: Step) -> Seq2SeqModel:
        fitting = [s for s in self._models if s <= step]
        if not fitting:
            return self.model
        with self._loading:
            model = self._models[max(fitting)]
            if not isinstance(model, Seq2SeqModel):
                try:
                    model = model()
                except MemoryError:  # no room for a second one: the first is there
                    return self.model
                self._models[max(fitting)] = model
        return model

    # ---------------------------------------------------- the cloud -----------------------------------------

    def _reasons(self, text: str, draft: Generation) -> list[str]:
        manifest = self.model.manifest
        token_ids = self.model.encode(text[:_FIRST_LOOK])
        findings = Evidence(text).check(draft.text)
        return [
            *reasons_before(self.policy, manifest, token_ids),
            *reasons_after(self.policy, manifest, draft, findings, text),
        ]

    def _ask_cloud(
        self,
        text: str,
        options: GenerationOptions | None,
        deadline: float | None,
        begun: threading.Event | None = None,
        *,
        is_summary: bool,
    ) -> Generation:
        """The cloud's answer, checked; CloudError if there is none."""
        if self.policy.mode == ONLY_ON_DEVICE:
            raise CloudError("mode", "the mode is only_on_device")
        if self.cloud is None:
            raise CloudError("mode", "there is no cloud")
        redacted = self._outgoing(text)
        if not self.policy.metered_network and self._is_metered():
            raise CloudError("device", "the network is metered; metered_network allows it")
        start = time.monotonic()
        answer = self._cached_answer(
            self.cloud, redacted.text, self._max_new_tokens(options), deadline, begun
        )
        if unknown := redacted.unknown_placeholders(answer.text):
            raise CloudError(
                "invalid_response", f"the answer has a placeholder that was not sent: {unknown[0]}"
            )
        restored = redacted.restore(answer.text).strip()
        if is_summary and len(restored) > len(text):
            raise CloudError("invalid_response", "the summary is longer than the text")
        findings = Evidence(text).check(restored)
        if findings.loop is not None:
            raise CloudError("invalid_response", "the answer goes round in circles")
        return Generation(
            text=restored,
            token_ids=(),
            score=math.nan,
            token_logprobs=(),
            finish_reason=answer.finish_reason or "eos",
            origin="cloud",
            stats=GenerationStats(
                source_tokens=0,
                encoder_ms=0.0,
                decoder_ms=0.0,
                isa="",
                num_threads=0,
                providers=(),
                cloud_ms=1000 * (time.monotonic() - start),
            ),
        )

    def _outgoing(self, text: str) -> Redacted:
        """What may leave the device, and how to undo it."""
        privacy = self.policy.privacy
        if privacy == "never":
            raise CloudError("privacy", 'privacy is "never"')
        if privacy == "redacted":
            return redact(text, self.policy.deny_list)
        if privacy == "ask" and (self._consent is None or self._consent(text) is not True):
            raise CloudError("privacy", "nobody agreed to send this text")
        return Redacted(text, {})

    def _is_metered(self) -> bool:
        return self._governor is not None and bool(self._governor.device.read().is_metered)

    def _max_new_tokens(self, options: GenerationOptions | None) -> int:
        manifest = self.model.manifest
        params = (options or GenerationOptions()).complete(manifest.generation, manifest.dimensions)
        return params.max_new_tokens

    def _cached_answer(
        self,
        cloud: CloudClient,
        text: str,
        max_new_tokens: int,
        deadline: float | None,
        begun: threading.Event | None,
    ) -> CloudAnswer:
        if self._cache is not None and (kept := self._cache.get(cloud.config, text, max_new_tokens)):
            return kept
        stream = cloud.stream(text, max_new_tokens=max_new_tokens, deadline=deadline)
        answer = run_to_end(_signalling(stream, begun))
        if self._cache is not None:
            self._cache.put(cloud.config, text, max_new_tokens, answer)
        return answer


def _signalling(
    stream: Generator[str, None, CloudAnswer], begun: threading.Event | None
) -> Generator[str, None, CloudAnswer]:
    """The stream; its first piece sets `begun`."""
    try:
        while True:
            piece = next(stream)
            if begun is not None:
                begun.set()
            yield piece
    except StopIteration as end:
        answer: CloudAnswer = end.value
        return answer
    finally:
        stream.close()


class _InThread:
    """A call in a thread of its own. It sets `begun` when its answer begins; its end does so, too."""

    def __init__(self, call: Callable[[threading.Event], Generation]) -> None:
        self.begun = threading.Event()
        self._call = call
        self._result: Generation | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="edge_s2s hybrid", daemon=True)
        self._thread.start()

    def result(self) -> Generation:
        """What it returned, or raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._call(self.begun)
        except BaseException as error:  # raised again where the result is awaited
            self._error = error
        finally:
            self.begun.set()


def _focused(document: str, focus: str | None) -> str:
    return document if focus is None else f"{focus}\n\n{document}"


def _already(drafts: list[Generation]) -> Local:
    return lambda _model, _options: drafts


def _with_reasons(drafts: list[Generation], reasons: Iterable[str]) -> list[Generation]:
    """The first one says why; the others are its alternatives."""
    first, *others = drafts
    return [replace(first, reasons=tuple(dict.fromkeys([*first.reasons, *reasons]))), *others]


def _deadline(options: GenerationOptions | None) -> float | None:
    if options is None or options.deadline_ms is None:
        return None
    return time.monotonic() + options.deadline_ms / 1000
