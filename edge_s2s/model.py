"""Texts into texts, by a model that `load` has opened.

    with edge_s2s.load("bundle.es2s") as model:
        [[generation]] = model.generate(["..."], GenerationOptions(num_beams=4))
        for piece in model.stream("..."): ...
        model.summarize(document_of_any_length).text

Every call has its own decoding session, so threads can share a model. Every source is encoded alone, so its
answer does not depend on its neighbours.
"""

import dataclasses
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self, TypeVar

from edge_s2s import documents
from edge_s2s.answers import answers, stream_answer, stream_chunks, stream_pass
from edge_s2s.confidence import Calibration
from edge_s2s.constrained import AllowedSequences, Constraint, without_rules
from edge_s2s.decoder import LogitsProcessor
from edge_s2s.drift import Monitor, Reference
from edge_s2s.errors import ConstraintError, InputTooLongError
from edge_s2s.generation import Check, Generation, GenerationOptions
from edge_s2s.job import Job, Parts, Source
from edge_s2s.json_schema import SEPARATORS, JsonSchema, Vocabulary
from edge_s2s.manifest import GenerationDefaults, Manifest
from edge_s2s.repair import summary_checks
from edge_s2s.scoring import Score, score_targets
from edge_s2s.target_prefix import TargetPrefix, target_prefixes
from edge_s2s.tokenizer import check_token_ids
from edge_s2s.worker import in_thread, run_to_end

MAX_BATCH_SIZE = 1024

T = TypeVar("T")


class Seq2SeqModel:
    """An encoder-decoder model, shared by any number of threads; `load` makes it.

    Close it, or use it as a context manager. Calls that run while it is closed still finish.
    """

    def __init__(self, parts: Parts, manifest: Manifest, bundle_digest: str) -> None:
        self.manifest = manifest
        self.bundle_digest = bundle_digest
        """SHA-256 of the bundle's manifest, as `edge-s2s info` prints it"""
        self._summary_checks = summary_checks(manifest)
        self._calibration = Calibration.of(manifest)
        self._careful_calibration = Calibration.of(manifest, careful=True)
        reference = Reference.of(manifest)
        self.drift = None if reference is None else Monitor(reference)
        """Whether texts are like those the model was made for; None if the bundle has no reference"""
        self._open_parts: Parts | None = parts

    @property
    def max_source_len(self) -> int:
        """The most tokens that a source may have: an accelerator's longest bucket may hold fewer."""
        return self._parts.max_source_len

    def encode(self, text: str) -> list[int]:
        """The input ids of a text, task prefix and control tokens included."""
        return self._parts.tokenizer.encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids."""
        return self._parts.target_tokenizer.decode(token_ids)

    def generate(
        self,
        texts: Iterable[str] | Iterable[Sequence[int]],
        options: GenerationOptions | None = None,
        *,
        truncation: bool = False,
        batch_size: int = 8,
        decoder_input_ids: Iterable[TargetPrefix] | None = None,
        target_prefix: Iterable[TargetPrefix] | None = None,
        logits_processor: LogitsProcessor | Sequence[LogitsProcessor | None] | None = None,
        constraint: Constraint | Sequence[Constraint] | None = None,
    ) -> list[list[Generation]]:
        """For each text its `num_return_sequences` best results, best first, or as many draws.

        Token ids in the place of a text are taken as they are, without prefix and EOS. `batch_size` sources
        are decoded together, faster and with the same results. A blank text is a ValueError, one that
        is too long an InputTooLongError, unless `truncation` cuts it; its results then say `truncated`.

        `decoder_input_ids`, one for each text, are what its results begin with: token ids or names of tokens,
        any number, the start token first or left out, or a text. Results have them in `text` and
        `token_ids`; rules see them; `max_new_tokens` and scores do not count them. Tokens are taken as they
        are, so that none is forced before them; a text comes after `forced_bos_token_id`, as if it had been
        generated. `target_prefix` is CTranslate2's name for the same.

        `logits_processor`, for all texts or one for each, is called for each sequence in each step, after all
        rules and in another thread, with its tokens int32 [1, len] from the start token on, and the scores
        float32 [1, vocab_size] of the next one: logits, under beams log-probabilities. It changes these in
        place or returns others, -inf to forbid; NaN and +inf are a ValueError. What it raises, generate does.
        It may use the model.

        `constraint`, for all texts or one for each, is what results keep to: `allow_texts` and `json_schema`
        make some, `constrained` says what else can be one. It counts from where a prefix and a forced token
        end. The bundle's own rules that forbid or force tokens are then off, those of `options` are not.
        There may be fewer results than `num_return_sequences`; if there is none, or a constraint has longer
        ones than `max_new_tokens`, ConstraintError.
        """
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            found = type(texts).__name__
            raise TypeError(f"texts: expected a list of texts, found one {found}; write generate([text])")
        if not 1 <= batch_size <= MAX_BATCH_SIZE:
            raise ValueError(f"batch_size: expected a number in 1..{MAX_BATCH_SIZE}, found {batch_size}")
        params = self._complete(options, constraint if isinstance(constraint, Sequence) else [constraint])
        job = self._job(options, params, batch_size)
        inputs: list[str | Sequence[int]] = [*texts]
        constraints = _one_each(constraint, len(inputs), "constraint")
        names = ["the text"] if len(inputs) == 1 else [f"texts[{i}]" for i in range(len(inputs))]
        if target_prefix is not None and decoder_input_ids is not None:
            raise TypeError("target_prefix and decoder_input_ids are one argument; give decoder_input_ids")
        given = target_prefix if decoder_input_ids is None else decoder_input_ids
        prefixes = self._target_prefixes(given, len(inputs), options, params)
        sources = [
            dataclasses.replace(
                self._source(job, text, name, truncation),
                target_prefix=prefix,
                logits_processor=processor,
                constraint=its_constraint,
            )
            for text, name, prefix, processor, its_constraint in zip(
                inputs, names, prefixes, _processors(logits_processor, len(inputs)), constraints, strict=True
            )
        ]
        checks = _checks(options, ())
        return run_to_end(in_thread(lambda cancellation, _emit: answers(job, sources, cancellation, checks)))

    def stream(
        self,
        text: str | Sequence[int],
        options: GenerationOptions | None = None,
        *,
        truncation: bool = False,
        decoder_input_ids: TargetPrefix = None,
        constraint: Constraint | None = None,
    ) -> Generator[str, None, Generation]:
        """Pieces of the best result as soon as they cannot change any more; joined, they are its text.

        It begins with `decoder_input_ids` and keeps to `constraint`, as in `generate`. Closing the generator
        ends the work within one decoding step. Its return value is the Generation.
        """
        params = dataclasses.replace(self._complete(options, [constraint]), num_return_sequences=1)
        job = self._job(options, params)
        source = self._source(job, text, "the text", truncation)
        [prefix] = self._target_prefixes([decoder_input_ids], 1, options, params)
        source = dataclasses.replace(source, target_prefix=prefix, constraint=constraint)
        return stream_answer(job, source, _checks(options, ()))

    def summarize(
        self,
        document: str,
        options: GenerationOptions | None = None,
        *,
        focus: str | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Generation:
        """The best result for a document of any length; `documents` has the rule for long ones.

        `provenance` of the result says which sentence of the document supports each of its sentences. With a
        `focus`, words or a question, only those parts of a long document are read that have most of it.
        After `deadline_ms` the result is made of what has been read.

        While one of several chunks is read, `on_progress` gets how many are done and how many there are, in
        another thread; summaries that are summarized again count anew.
        """
        return run_to_end(self.stream_summary(document, options, focus=focus, on_progress=on_progress))

    def stream_summary(
        self,
        document: str,
        options: GenerationOptions | None = None,
        *,
        focus: str | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Generator[str, None, Generation]:
        """`summarize` as a stream. A document of several chunks comes at once, when all of it is read."""
        params = dataclasses.replace(self._complete(options), num_return_sequences=1)
        job = self._job(options, params)
        limit = min(documents.ONE_PASS_TOKENS, job.parts.max_source_len)
        _check_text(document, "the document")
        checks = _checks(options, self._summary_checks)
        input_ids = job.parts.tokenizer.encode(document, max_len=limit + 1)
        if len(input_ids) <= limit:
            return stream_pass(job, Source(input_ids, text=document), checks)
        job = dataclasses.replace(job, on_progress=on_progress)
        return stream_chunks(job, document, checks, focus)

    def score(
        self,
        texts: Sequence[str | Sequence[int]],
        targets: Sequence[str | Sequence[int]],
        options: GenerationOptions | None = None,
        *,
        num_alternatives: int = 0,
        output_attentions: bool = False,
        truncation: bool = False,
        batch_size: int = 8,
    ) -> list[Score]:
        """What the model thinks of a target for each text; `Score` says what that is.

        A target is a text, or token ids as a Generation has them; EOS ends a text, and ids as they are. Of
        `options`, languages, a forced first token and `length_penalty` count. `output_attentions` reads
        every text twice.
        """
        _check_score(texts, targets, batch_size, num_alternatives)
        params = self._complete(options)
        job = Job(self._parts_for(options), params, _deadline(None), None, batch_size)
        sources = [self._source(job, text, f"texts[{i}]", truncation) for i, text in enumerate(texts)]
        ids = [self._target(target, f"targets[{i}]", params) for i, target in enumerate(targets)]
        return run_to_end(
            in_thread(
                lambda cancellation, _emit: score_targets(
                    job,
                    sources,
                    ids,
                    cancellation,
                    num_alternatives=num_alternatives,
                    output_attentions=output_attentions,
                )
            )
        )

    def _target(self, target: str | Sequence[int], name: str, params: GenerationDefaults) -> tuple[int, ...]:
        dims = self._parts.decoder.dims
        if isinstance(target, str):
            first = [] if params.forced_bos_token_id is None else [params.forced_bos_token_id]
            ids = [*first, *self._parts.target_tokenizer.tokenize(target), dims.eos_token_id]
        else:
            ids = check_token_ids(target, name, dims.vocab_size)
        if not ids:
            raise ValueError(f"{name} has no token ids")
        if dims.eos_token_id in ids[:-1]:
            raise ValueError(
                f"{name}: expected EOS at the end only, found it at {ids.index(dims.eos_token_id)}"
            )
        if len(ids) > dims.max_target_len:
            raise ValueError(
                f"{name} has {len(ids)} tokens, but this model generates at most {dims.max_target_len}"
            )
        return tuple(ids)

    def allow_texts(self, texts: Iterable[str]) -> AllowedSequences:
        """A constraint for `generate`: results are one of these texts.

        Raises ConstraintError for a text that the model's tokens cannot write as it is.
        """
        tokenizer = self._parts.target_tokenizer
        sequences = []
        for text in texts:
            token_ids = tokenizer.tokenize(text)
            if not token_ids or (written := tokenizer.decode(token_ids)) != text:
                found = repr(written) if token_ids else "no tokens"
                raise ConstraintError(f"allow_texts: {text!r} would become {found}")
            sequences.append(token_ids)
        return AllowedSequences(sequences)

    def json_schema(
        self, schema: Mapping[str, Any] | bool | str, *, separators: tuple[str, str] = SEPARATORS
    ) -> JsonSchema:
        """A constraint for `generate`: results are JSON that a schema, or its text, allows.

        `JsonSchema` says the rest. Needs `pip install 'edge_s2s[json]'`.
        """
        return JsonSchema(schema, self._vocabulary, separators=separators)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        dims = self._parts.decoder.dims
        return Vocabulary(
            self._parts.target_tokenizer, vocab_size=dims.vocab_size, eos_token_id=dims.eos_token_id
        )

    def close(self) -> None:
        """Lets go of weights and threads, after calls that still run; later calls raise ValueError."""
        self._open_parts = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def _parts(self) -> Parts:
        if self._open_parts is None:
            raise ValueError("the model is closed")
        return self._open_parts

    def _complete(
        self, options: GenerationOptions | None, constraints: Sequence[Constraint | None] = ()
    ) -> GenerationDefaults:
        options = GenerationOptions() if options is None else options
        if not isinstance(options, GenerationOptions):
            found = type(options).__name__
            raise TypeError(
                f"options: expected GenerationOptions, found {found}; write GenerationOptions(num_beams=4)"
            )
        defaults = self.manifest.generation
        if any(constraint is not None for constraint in constraints):
            defaults = without_rules(defaults)
        params = options.complete(defaults, self.manifest.dimensions)
        languages = self.manifest.language_tokens
        if languages.target_is_first_token and options.forced_bos_token_id is None:
            if options.target_language in languages.ids:
                code = options.target_language
            else:
                code = languages.target if params.forced_bos_token_id is None else None
            if code is not None:
                params = dataclasses.replace(params, forced_bos_token_id=languages.ids[code])
        n_forced = int(params.forced_bos_token_id is not None)
        for constraint in constraints:
            if constraint is not None and constraint.max_len is not None:
                needed = n_forced + constraint.max_len + 1
                if needed > params.max_new_tokens:
                    raise ConstraintError(
                        f"constraint: its longest result has {needed} tokens with EOS, but max_new_tokens is "
                        f"{params.max_new_tokens}; raise it"
                    )
        return params

    def _job(self, options: GenerationOptions | None, params: GenerationDefaults, batch_size: int = 8) -> Job:
        parts, deadline, seed = self._parts_for(options), _deadline(options), _seed(options)
        return Job(
            parts,
            params,
            deadline,
            seed,
            batch_size,
            calibration=self._calibration,
            careful=self._careful_calibration if options is not None and options.careful else None,
            drift=self.drift,
        )

    def _parts_for(self, options: GenerationOptions | None) -> Parts:
        """What a call works with: the tokenizer as its languages want it."""
        parts = self._parts
        if options is None:
            return parts
        tokenizer = parts.tokenizer.with_languages(options.source_language, options.target_language)
        return dataclasses.replace(parts, tokenizer=tokenizer)

    def _target_prefixes(
        self,
        given: Iterable[TargetPrefix] | None,
        n_texts: int,
        options: GenerationOptions | None,
        params: GenerationDefaults,
    ) -> list[tuple[int, ...]]:
        parts = self._parts
        prefixes = target_prefixes(given, n_texts, params, parts.decoder.dims, parts.target_tokenizer)
        if any(prefixes) and options is not None and (options.max_length or options.min_length):
            raise ValueError("decoder_input_ids: max_length and min_length would count them; give "
                             "max_new_tokens and min_new_tokens, which do not")  # fmt: skip
        return prefixes

    def _source(self, job: Job, text: str | Sequence[int], name: str, truncation: bool) -> Source:
        """Checks a text or token ids; raises a ValueError that begins with `name`."""
        limit = job.parts.max_source_len
        if isinstance(text, str):
            _check_text(text, name)
            if job.is_late:
                return Source([])  # nobody will read it
            tokenizer = job.parts.tokenizer
            input_ids = tokenizer.encode(text, max_len=limit + 1)  # no more than it takes to know
            if len(input_ids) > limit and truncation:
                return Source(tokenizer.encode(text, max_len=limit), truncated=True, text=text)
        else:
            input_ids = check_token_ids(text, name, self.manifest.dimensions.n_source_tokens)
            if not input_ids:
                raise ValueError(f"{name} has no token ids")
            if len(input_ids) > limit and truncation:
                return Source(input_ids[:limit], truncated=True)
        if len(input_ids) > limit:
            raise InputTooLongError(
                f"{name} has more than the {limit} tokens that this model reads; "
                "truncation would cut it, summarize reads all of it"
            )
        return Source(input_ids, text=text if isinstance(text, str) else "")


def _check_score(texts: object, targets: object, batch_size: int, num_alternatives: int) -> None:
    for name, given in (("texts", texts), ("targets", targets)):
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise TypeError(
                f"{name}: expected a list, found {type(given).__name__}; write score([text], [target])"
            )
    assert isinstance(texts, Sequence)
    assert isinstance(targets, Sequence)
    if len(texts) != len(targets):
        raise ValueError(f"targets: expected one for each of {len(texts)} texts, found {len(targets)}")
    if not 1 <= batch_size <= MAX_BATCH_SIZE:
        raise ValueError(f"batch_size: expected a number in 1..{MAX_BATCH_SIZE}, found {batch_size}")
    if num_alternatives < 0:
        raise ValueError(f"num_alternatives: expected a number from 0 on, found {num_alternatives}")


def _check_text(text: object, name: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{name}: expected a str, found {type(text).__name__}")
    if not text.strip():
        raise ValueError(f"{name} is blank")


def _one_each(given: T | Sequence[T | None] | None, n_texts: int, name: str) -> Sequence[T | None]:
    """One for each text."""
    each: Sequence[T | None] = given if isinstance(given, Sequence) else [given] * n_texts
    if len(each) != n_texts:
        raise ValueError(f"{name}: expected one, or {n_texts} as texts, found {len(each)}")
    return each


def _processors(
    given: LogitsProcessor | Sequence[LogitsProcessor | None] | None, n_texts: int
) -> Sequence[LogitsProcessor | None]:
    """One for each text."""
    processors = _one_each(given, n_texts, "logits_processor")
    if wrong := [p for p in processors if not (p is None or callable(p))]:
        raise TypeError(f"logits_processor: expected a function, found {type(wrong[0]).__name__}")
    return processors


def _deadline(options: GenerationOptions | None) -> float | None:
    """The moment on the monotonic clock."""
    if options is None or options.deadline_ms is None:
        return None
    return time.monotonic() + options.deadline_ms / 1000


def _checks(options: GenerationOptions | None, default: Sequence[Check]) -> Sequence[Check]:
    return default if options is None or options.checks is None else options.checks


def _seed(options: GenerationOptions | None) -> int | None:
    return None if options is None else options.seed
