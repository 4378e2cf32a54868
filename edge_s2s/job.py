"""One call, from its sources to their results: what it works with, and how.

Every source is encoded alone; `batch_size` of them are decoded together, in a session of their own.
"""

import hashlib
import secrets
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edge_s2s.confidence import DRAW, DRAW_SEED, Calibration
from edge_s2s.constrained import Constraint, ConstraintProcessor, results_of
from edge_s2s.decoder import (
    Cancellation,
    DecoderModel,
    DecoderSession,
    FinishReason,
    Floats,
    Hypothesis,
    LogitsProcessor,
)
from edge_s2s.drift import Monitor
from edge_s2s.generation import Generation, GenerationStats
from edge_s2s.manifest import GenerationDefaults
from edge_s2s.tokenizer import Tokenizer

_SEED_BITS = 53  # of a seed made up here, which JSON readers that know doubles alone can hold


class SourceEncoder(Protocol):
    """What ONNX Runtime runs: `encoder.Encoder` or `static_encoder.StaticEncoder`."""

    max_source_len: int

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's execution providers."""

    def cross_kv(self, inputs_embeds: Floats, /) -> Floats:
        """float32 [source_len, d_model] to [n_layers, 2, n_heads, source_len, d_head]."""


@dataclass(frozen=True)
class Parts:
    """What an open model is made of."""

    tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    encoder: SourceEncoder | None
    """None: the decoder's model has one of its own"""
    decoder: DecoderModel
    fallback: str = ""
    """Why the CPU encodes though another provider was asked for"""

    def encode(
        self,
        session: DecoderSession,
        row: int,
        input_ids: Sequence[int],
        *,
        keep_ids: bool = False,
        deadline_ms: int | None = None,
        cancellation: Cancellation | None = None,
    ) -> bool:
        """Reads a source into a row of a session; False if it was cancelled or late, which ONNX never is.

        `keep_ids` if rules `encoder_*` are to see its tokens.
        """
        if self.encoder is None:
            mean_hidden = session.encode(
                row, input_ids, keep_ids=keep_ids, deadline_ms=deadline_ms, cancellation=cancellation
            )
            return mean_hidden is not None
        cross_kv = self.encoder.cross_kv(self.decoder.embed(input_ids))
        session.set_source(row, cross_kv, input_ids if keep_ids else None)
        return True

    @property
    def max_source_len(self) -> int:
        """Tokens that a source may have."""
        return self.decoder.dims.max_source_len if self.encoder is None else self.encoder.max_source_len

    @property
    def providers(self) -> tuple[str, ...]:
        """What runs the encoder: ONNX Runtime's execution providers, or "native"."""
        return ("native",) if self.encoder is None else self.encoder.providers


@dataclass(frozen=True)
class Source:
    """What a result is generated from."""

    input_ids: list[int]
    target_prefix: tuple[int, ...] = ()
    """What it begins with after the start token"""
    truncated: bool = False
    text: str = ""
    """Which the checks compare results with"""
    logits_processor: LogitsProcessor | None = None
    constraint: Constraint | None = None


@dataclass(frozen=True)
class Job:
    """One call of `generate` or `stream`."""

    parts: Parts
    params: GenerationDefaults
    deadline: float | None
    seed: int | None
    batch_size: int = 8
    on_progress: Callable[[int, int], None] | None = None
    calibration: Calibration | None = None
    careful: Calibration | None = None
    """One that needs `draws`, and is better; None draws nothing"""
    drift: Monitor | None = None

    def run(
        self,
        sources: Sequence[Source],
        cancellation: Cancellation,
        on_tokens: Callable[[list[int]], None] | None = None,
    ) -> list[list[Generation]]:
        """Results of each source; `on_tokens` gets tokens of the first."""
        results: list[list[Generation]] = []
        for start in range(0, len(sources), self.batch_size):
            batch = sources[start : start + self.batch_size]
            if reason := self.ended(cancellation):
                results += [self._unread_results(source, reason) for source in batch]
            else:
                results += self._run_batch(batch, cancellation, on_tokens)
            if self.on_progress is not None:
                self.on_progress(len(results), len(sources))
        return results

    @property
    def _looks_up_source(self) -> bool:
        """Whether what the source says may be a draft; not if it has a vocabulary of its own."""
        dims = self.parts.decoder.dims
        return self.params.prompt_lookup_num_tokens > 0 and dims.source_vocab_size <= dims.vocab_size

    def _run_batch(
        self,
        sources: Sequence[Source],
        cancellation: Cancellation,
        on_tokens: Callable[[list[int]], None] | None,
    ) -> list[list[Generation]]:
        decoder, params = self.parts.decoder, self.params
        encoder_ms: list[float] = []
        hypotheses: list[list[Hypothesis]] = []
        decoder_ms = 0.0
        max_source_len = max(len(source.input_ids) for source in sources)
        max_target_len = max(len(source.target_prefix) for source in sources) + params.max_new_tokens
        draws: list[tuple[str, ...]] = []
        with decoder.session(
            len(sources),
            max(params.rows_per_source, self.careful.n_draws if self.careful else 1),
            max_source_len,
            max_target_len,
            max_draft_tokens=params.prompt_lookup_num_tokens,
        ) as session:
            for row, source in enumerate(sources):
                if self.ended(cancellation):
                    break
                start = time.perf_counter()
                if not self.parts.encode(
                    session,
                    row,
                    source.input_ids,
                    keep_ids=params.reads_source_ids or self._looks_up_source,
                    deadline_ms=self._remaining_ms(),
                    cancellation=cancellation,
                ):
                    break
                encoder_ms.append(1000 * (time.perf_counter() - start))
            start = time.perf_counter()
            seeds = [secrets.randbits(_SEED_BITS) if self.seed is None else self.seed for _ in sources]
            if read := sources[: len(encoder_ms)]:
                processors = [self._processor(source) for source in read]
                hypotheses = session.generate(
                    params,
                    prefixes=[source.target_prefix for source in read],
                    seeds=[_source_seed(seed, source) for seed, source in zip(seeds, read, strict=False)],
                    deadline_ms=self._remaining_ms(),
                    on_tokens=None if on_tokens is None else lambda _row, tokens: on_tokens(tokens),
                    logits_processors=processors if any(processors) else None,
                    cancellation=cancellation,
                )
                draws = self._draws(session, read, cancellation)
                decoder_ms = 1000 * (time.perf_counter() - start) / len(encoder_ms)
        results = [
            [
                replace(self._generation(source, hypothesis, ms, decoder_ms, seed), draws=drawn)
                for hypothesis in self._kept(source, best)
            ]
            for source, best, ms, seed, drawn in zip(
                sources, hypotheses, encoder_ms, seeds, draws, strict=False
            )
        ]
        reason = self.ended(cancellation) or "deadline"
        return results + [self._unread_results(source, reason) for source in sources[len(results) :]]

    def _draws(
        self, session: DecoderSession, sources: Sequence[Source], cancellation: Cancellation
    ) -> list[tuple[str, ...]]:
        """What else could be said to each source; nothing if time is up, or a call has rules of its own."""
        nothing: list[tuple[str, ...]] = [()] * len(sources)
        if self.careful is None or self.ended(cancellation) or any(map(self._processor, sources)):
            return nothing
        drawn = session.generate(
            replace(self.params, **DRAW, num_return_sequences=self.careful.n_draws),
            prefixes=[source.target_prefix for source in sources],
            seeds=[_source_seed(DRAW_SEED, source) for source in sources],
            deadline_ms=self._remaining_ms(),
            cancellation=cancellation,
        )
        if self.ended(cancellation):
            return nothing
        decode = self.parts.target_tokenizer.decode
        return [
            tuple(decode(source.target_prefix + draw.token_ids) for draw in of_source)
            for source, of_source in zip(sources, drawn, strict=True)
        ]

    def _n_forced(self, source: Source) -> int:
        """How many of a result's new tokens are forced before all others."""
        return int(self.params.forced_bos_token_id is not None and not source.target_prefix)

    def _processor(self, source: Source) -> LogitsProcessor | None:
        if source.constraint is None:
            return source.logits_processor
        return ConstraintProcessor(
            source.constraint,
            eos_token_id=self.parts.decoder.dims.eos_token_id,
            n_given=1 + len(source.target_prefix) + self._n_forced(source),
            beams=self.params.num_beams > 1,
            before=source.logits_processor,
        )

    def _kept(self, source: Source, best: list[Hypothesis]) -> list[Hypothesis]:
        """Without what broke the source's constraint."""
        if source.constraint is None:
            return best
        return results_of(
            source.constraint,
            best,
            eos_token_id=self.parts.decoder.dims.eos_token_id,
            n_forced=self._n_forced(source),
            params=self.params,
        )

    def _unread_results(self, source: Source, reason: FinishReason) -> list[Generation]:
        return [self.unread(source, reason)] * self.params.num_return_sequences

    def unread(self, source: Source, reason: FinishReason) -> Generation:
        """The result for a source that there was no time for."""
        return self._generation(source, Hypothesis((), 0.0, (), reason), 0.0, 0.0)

    def _generation(
        self,
        source: Source,
        hypothesis: Hypothesis,
        encoder_ms: float,
        decoder_ms: float,
        seed: int | None = None,
    ) -> Generation:
        token_ids = source.target_prefix + hypothesis.token_ids
        return Generation(
            text=self.parts.target_tokenizer.decode(token_ids),
            token_ids=token_ids,
            score=hypothesis.score,
            token_logprobs=hypothesis.token_logprobs,
            finish_reason=hypothesis.finish_reason,
            seed=seed if self.params.do_sample else None,
            truncated=source.truncated,
            stats=GenerationStats(
                source_tokens=len(source.input_ids),
                encoder_ms=encoder_ms,
                decoder_ms=decoder_ms,
                isa=self.parts.decoder.isa,
                num_threads=self.parts.decoder.num_threads,
                providers=self.parts.providers,
                fallback=self.parts.fallback,
            ),
        )

    def ended(self, cancellation: Cancellation) -> FinishReason | None:
        """Why no more may be done, if so."""
        if cancellation.is_cancelled:
            return "cancelled"
        return "deadline" if self.is_late else None

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return self._remaining_ms() == 0

    def _remaining_ms(self) -> int | None:
        if self.deadline is None:
            return None
        return max(0, round(1000 * (self.deadline - time.monotonic())))


def _source_seed(seed: int, source: Source) -> int:
    """Makes what is drawn for different sources independent: 64 bits of a hash of seed and tokens."""
    tokens = (*source.input_ids, -1, *source.target_prefix) if source.target_prefix else source.input_ids
    data = struct.pack(f"<Q{len(tokens)}i", seed, *tokens)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
