"""What a job's sources become: checked answers, a stream of one, or the summary of a long document."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence

from edge_s2s import documents
from edge_s2s.confidence import confidence
from edge_s2s.decoder import Cancellation
from edge_s2s.faithfulness import Evidence, find_loop
from edge_s2s.generation import Check, FinishReason, Generation, Provenance, Replacement
from edge_s2s.job import Job, Source
from edge_s2s.repair import run_checked
from edge_s2s.tokenizer import TextStream
from edge_s2s.worker import in_thread, run_to_end

_CHUNKS_AT_ONCE = 64  # of a long document that lie in memory as tokens
_LOOKED_AT = 2000  # characters at the end of a stream, in which a loop would be seen
_SEAM_TOKENS = 8  # that a text may have more of after a prefix than alone


def answers(
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
    calibrations = job.careful, job.calibration
    if not any(calibrations):
        return results
    return [
        [dataclasses.replace(r, confidence=confidence(r, text, evidence, *calibrations)) for r in best]
        for source, best in zip(sources, results, strict=True)
        for text in [source.text or job.parts.tokenizer.decode(source.input_ids)]
        for evidence in [Evidence(text)]
    ]


def stream_answer(job: Job, source: Source, checks: Sequence[Check]) -> Generator[str, None, Generation]:
    """The best answer in pieces that stay, as soon as they are known; a Replacement where it was mended."""
    text = TextStream(job.parts.target_tokenizer)
    sent = ""
    tokens = in_thread(lambda cancellation, emit: answers(job, [source], cancellation, checks, emit)[0][0])
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


def stream_pass(job: Job, source: Source, checks: Sequence[Check]) -> Generator[str, None, Generation]:
    """A summary of a document that fits into one pass."""
    generation = yield from stream_answer(job, source, checks)
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


def stream_chunks(
    job: Job, document: str, checks: Sequence[Check], focus: str | None
) -> Generator[str, None, Generation]:
    """The summary of a document of several chunks, in one piece."""
    tokenizer = job.parts.tokenizer
    max_source_len = job.parts.max_source_len
    outputs: list[Generation] = []
    job = dataclasses.replace(job, careful=None)  # what is made of several outputs has no confidence

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
