"""Load a bundle, and turn texts into texts.

    with edge_s2s.load("bundle.es2s") as model:
        [[generation]] = model.generate(["..."], GenerationOptions(num_beams=4))
        for piece in model.stream("..."): ...
        model.summarize(document_of_any_length).text

Every call has its own decoding session, so threads can share a model. Every source is encoded alone, so its
answer does not depend on its neighbours.
"""

import dataclasses
import operator
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar

from edge_s2s import documents
from edge_s2s.bundle import Bundle, open_bundle
from edge_s2s.confidence import Calibration
from edge_s2s.constrained import AllowedSequences, Constraint, without_rules
from edge_s2s.decoder import Cancellation, DecoderModel, LogitsProcessor
from edge_s2s.drift import Monitor, Reference
from edge_s2s.encoder import Encoder
from edge_s2s.errors import BundleError, ConstraintError, InputTooLongError, ProviderError
from edge_s2s.faithfulness import Evidence, find_loop
from edge_s2s.generation import Check, FinishReason, Generation, GenerationOptions, Provenance, Replacement
from edge_s2s.job import Job, Parts, Source
from edge_s2s.json_schema import SEPARATORS, JsonSchema, Vocabulary
from edge_s2s.manifest import EncoderKind, GenerationDefaults, Manifest
from edge_s2s.providers import ProviderRequest, accelerator
from edge_s2s.repair import run_checked, summary_checks
from edge_s2s.scoring import Score, score_targets
from edge_s2s.static_encoder import StaticEncoder
from edge_s2s.target_prefix import TargetPrefix, target_prefixes
from edge_s2s.threads import MAX_THREADS, default_num_threads
from edge_s2s.tokenizer import TextStream, check_token_ids, open_tokenizers
from edge_s2s.weights import FILE as WEIGHTS
from edge_s2s.worker import in_thread, run_to_end

MAX_BATCH_SIZE = 1024
_CHUNKS_AT_ONCE = 64  # of a long document that lie in memory as tokens
_LOOKED_AT = 2000  # characters at the end of a stream, in which a loop would be seen
_SEAM_TOKENS = 8  # that a text may have more of after a prefix than alone

T = TypeVar("T")


def default_bundle_path(*, must_exist: bool = False) -> Path:
    """Where the bundle lies that ships with the package; `must_exist` raises if the build left it out."""
    path = Path(__file__).parent / "bundles" / "default.es2s"
    if must_exist and not path.exists():
        hint = "this edge_s2s was built without it: name a bundle, which edge-s2s-export convert makes"
        raise BundleError("default bundle", str(path), "no such file", hint=hint)
    return path


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    num_threads: int | None = None,
    providers: Sequence[ProviderRequest] | None = None,
    fallback: Literal["cpu"] | None = None,
    context_cache: str | os.PathLike[str] | None = None,
    isa: str | None = None,
    encoder: EncoderKind | None = None,
) -> "Seq2SeqModel":
    """Opens a bundle, a directory or an .es2s; without `path`, the one that ships with the package.

    `num_threads` work on one call; None is `EDGE_S2S_NUM_THREADS`, or else the performance cores, 4 at most.
    `isa` forces the C core's kernel set. `encoder` chooses between "onnx" and "native", the C core, where a
    bundle has both. Whatever is wrong with the bundle is a BundleError; its files must not change while the
    model is open.

    `providers` says who runs the encoder: one accelerator's name, such as "qnn" or ("qnn", {options}), of a
    bundle with static encoders (`providers` and `static_encoder` have the rest); or ONNX Runtime's execution
    providers by its own names, by default the CPU's. What does not run as asked is a ProviderError, or with
    `fallback="cpu"` what an accelerator does not run runs on the CPU, and the `stats` of results say why. An
    accelerator's compiled graphs are kept in the folder `context_cache`, by default beside the bundle.
    """
    path = default_bundle_path(must_exist=True) if path is None else path
    return Seq2SeqModel(
        path,
        num_threads=num_threads,
        providers=providers,
        fallback=fallback,
        context_cache=context_cache,
        isa=isa,
        encoder=encoder,
    )


class Seq2SeqModel:
    """An encoder-decoder model, shared by any number of threads; `load` makes it.

    Close it, or use it as a context manager. Calls that run while it is closed still finish.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        num_threads: int | None = None,
        providers: Sequence[ProviderRequest] | None = None,
        fallback: Literal["cpu"] | None = None,
        context_cache: str | os.PathLike[str] | None = None,
        isa: str | None = None,
        encoder: EncoderKind | None = None,
    ) -> None:
        n_threads = default_num_threads() if num_threads is None else operator.index(num_threads)
        if not 1 <= n_threads <= MAX_THREADS:
            raise ValueError(f"num_threads: expected a number in 1..{MAX_THREADS}, found {n_threads}")
        with open_bundle(path) as bundle:
            self.manifest: Manifest = bundle.manifest
            self._summary_checks = summary_checks(self.manifest)
            self._calibration = Calibration.of(self.manifest)
            reference = Reference.of(self.manifest)
            tokenizer, target_tokenizer = open_tokenizers(self.manifest, bundle.read)
            chosen = _open_encoder(
                bundle,
                encoder,
                providers,
                num_threads=n_threads,
                fallback=fallback,
                contexts=None if context_cache is None else Path(context_cache),
            )
            weights = bundle.read(WEIGHTS)  # verified, as all that a bundle hands out
            decoder = DecoderModel(
                weights, encoder=chosen.native, num_threads=n_threads, isa=isa, verify=False
            )
        self.drift = None if reference is None else Monitor(reference)
        """Whether texts are like those the model was made for; None if the bundle has no reference"""
        self._open_parts: Parts | None = Parts(
            tokenizer, target_tokenizer, chosen.encoder, decoder, chosen.fallback
        )

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
        return run_to_end(in_thread(lambda cancellation, _emit: _answers(job, sources, cancellation, checks)))

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
        return _stream(job, source, _checks(options, ()))

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
            return _stream_pass(job, Source(input_ids, text=document), checks)
        job = dataclasses.replace(job, on_progress=on_progress)
        return _stream_chunks(job, document, checks, focus)

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
        return Job(parts, params, deadline, seed, batch_size, calibration=self._calibration, drift=self.drift)

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


class _Encoder(NamedTuple):
    """What encodes: ONNX Runtime's encoder, or the file of the native one."""

    encoder: Encoder | StaticEncoder | None
    native: memoryview | None
    fallback: str


def _open_encoder(
    bundle: Bundle,
    kind: EncoderKind | None,
    providers: Sequence[ProviderRequest] | None,
    *,
    num_threads: int,
    fallback: Literal["cpu"] | None,
    contexts: Path | None,
) -> _Encoder:
    reason = ""
    asked = accelerator(providers)
    if fallback is not None and (fallback != "cpu" or asked is None):
        raise ValueError(f"fallback: expected 'cpu' and an accelerator in providers, found {fallback!r}")
    if asked is not None:
        if kind is not None:
            raise ValueError("encoder: expected none with an accelerator, which runs static ones")
        try:
            static = StaticEncoder(bundle, *asked, num_threads=num_threads, contexts=contexts)
            return _Encoder(static, None, reason)
        except ProviderError as error:
            if fallback is None:
                raise
            reason, providers = str(error), None
    names = [name for name in providers or () if isinstance(name, str)]
    chosen = bundle.manifest.encoder(kind or ("onnx" if names else None))
    if chosen.kind == "native":
        if names:
            raise ValueError("providers: expected none with the native encoder, which is not ONNX Runtime's")
        return _Encoder(None, bundle.read(chosen.file), reason)
    return _Encoder(Encoder(bundle, num_threads=num_threads, providers=names), None, reason)


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


def _answers(
    job: Job,
    sources: Sequence[Source],
    cancellation: Cancellation,
    checks: Sequence[Check],
    on_tokens: Callable[[list[int]], None] | None = None,
) -> list[list[Generation]]:
    """Checked results of each source, with their confidence if the bundle can tell it."""
    if job.drift is not None:
        for source in sources:
            job.drift.add(source.input_ids)
    results = run_checked(job, sources, cancellation, checks, on_tokens)
    if (calibration := job.calibration) is None:
        return results
    return [
        [dataclasses.replace(r, confidence=calibration.confidence(r, text, evidence)) for r in best]
        for source, best in zip(sources, results, strict=True)
        for text in [source.text or job.parts.tokenizer.decode(source.input_ids)]
        for evidence in [Evidence(text)]
    ]


def _stream(job: Job, source: Source, checks: Sequence[Check]) -> Generator[str, None, Generation]:
    text = TextStream(job.parts.target_tokenizer)
    sent = ""
    tokens = in_thread(lambda cancellation, emit: _answers(job, [source], cancellation, checks, emit)[0][0])
    try:
        pushed: Sequence[int] = source.target_prefix
        while True:
            piece = text.push(pushed)
            if piece and not ("loops" in checks and find_loop((sent + piece)[-_LOOKED_AT:])):
                sent += piece
                yield piece
            pushed = next(tokens)
    except StopIteration as end:
        generation: Generation = end.value
    finally:
        tokens.close()
    if generation.text.startswith(sent):
        if rest := generation.text[len(sent) :]:
            yield rest
    else:
        yield Replacement(generation.text)
    return generation


def _stream_pass(job: Job, source: Source, checks: Sequence[Check]) -> Generator[str, None, Generation]:
    """A summary of a document that fits into one pass."""
    generation = yield from _stream(job, source, checks)
    supports = documents.supports_of(generation.text, source.text)
    return dataclasses.replace(generation, provenance=_provenance(generation.text, supports))


def _provenance(text: str, supports: Iterable[documents.Support]) -> tuple[Provenance, ...]:
    found = []
    end = 0
    for sentence, place in supports:
        start = text.index(sentence, end)
        end = start + len(sentence)
        found.append(Provenance(start, end, *place))
    return tuple(found)


def _stream_chunks(
    job: Job, document: str, checks: Sequence[Check], focus: str | None
) -> Generator[str, None, Generation]:
    tokenizer = job.parts.tokenizer
    max_source_len = job.parts.max_source_len
    outputs: list[Generation] = []

    def work(cancellation: Cancellation, _emit: object) -> documents.Summary:
        def count_tokens(text: str) -> int:
            # Once chunks have been summarized, what is there is worth choosing from after the deadline, too.
            if cancellation.is_cancelled or (not outputs and job.ended(cancellation)):
                raise _StoppedError
            return len(tokenizer.tokenize(text))

        counts: Counter[int] = Counter()

        def summarize(chunks: Sequence[str]) -> list[str]:
            texts = []
            is_first_level = not outputs
            for start in range(0, len(chunks), _CHUNKS_AT_ONCE):
                some = chunks[start : start + _CHUNKS_AT_ONCE]
                sources = [Source(tokenizer.encode(chunk), text=chunk) for chunk in some]
                if is_first_level:
                    counts.update(token for source in sources for token in source.input_ids)
                part = dataclasses.replace(job, on_progress=_later(job.on_progress, start, len(chunks)))
                results = [best for [best] in run_checked(part, sources, cancellation, checks)]
                outputs.extend(results)
                texts += [result.text for result in results]
            if job.drift is not None and is_first_level:
                job.drift.add(counts)
            return texts

        room = max_source_len - tokenizer.overhead - _SEAM_TOKENS
        chunk_tokens = max(1, min(documents.CHUNK_TOKENS, room))
        try:
            return documents.summarize_document(
                document,
                summarize,
                count_tokens,
                target_tokens=job.params.max_new_tokens,
                chunk_tokens=chunk_tokens,
                overlap_tokens=min(documents.OVERLAP_TOKENS, chunk_tokens // 10),
                focus=focus,
            )
        except _StoppedError:
            outputs.append(job.unread(Source([]), "deadline"))
            return documents.Summary((), 0, 0)

    summary = run_to_end(in_thread(work))
    if text := " ".join(support.text for support in summary.sentences):
        yield text
    reasons: Sequence[FinishReason] = ("cancelled", "deadline", "length")
    stats = dataclasses.replace(
        outputs[0].stats,
        source_tokens=sum(output.stats.source_tokens for output in outputs),
        encoder_ms=sum(output.stats.encoder_ms for output in outputs),
        decoder_ms=sum(output.stats.decoder_ms for output in outputs),
        n_chunks=summary.n_chunks,
        n_levels=summary.n_levels,
    )
    return Generation(
        text=text,
        token_ids=tuple(tokenizer.tokenize(text)),
        score=sum(output.score for output in outputs) / len(outputs),
        token_logprobs=(),
        provenance=_provenance(text, summary.sentences),
        reasons=tuple(dict.fromkeys(reason for output in outputs for reason in output.reasons)),
        finish_reason=next((r for r in reasons if any(o.finish_reason == r for o in outputs)), "eos"),
        stats=stats,
    )


def _later(
    on_progress: Callable[[int, int], None] | None, n_before: int, n_all: int
) -> Callable[[int, int], None] | None:
    """For a part of the work, of which so much was done before."""
    return None if on_progress is None else lambda n_done, _n: on_progress(n_before + n_done, n_all)


class _StoppedError(Exception):
    """There is no time to cut a long document, or nobody waits for it any more."""
