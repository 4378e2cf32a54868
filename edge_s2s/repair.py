"""What becomes of an answer that fails a check: another one, made or found in its place.

The rungs of the ladder, each tried where those before did not help. They say so in `Generation.reasons`.

    other      another result of the same search passes
    again      the search goes on from before a claim with its token forbidden, or begins anew with rules
               against repetition
    beam       beam search has a result that passes
    sentence   the sentence of the source that is nearest to the answer
    cut        an answer is cut before its loop

A loop that only a cut or a sentence could end has `finish_reason="loop"`; an answer with claims that nothing
could mend remains. `ask_cloud` is the reason that the last three rungs and such an answer have in common.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from edge_s2s.decoder import Cancellation
from edge_s2s.documents import rouge_l, split_sentences
from edge_s2s.faithfulness import Evidence, Findings, find_loop, words
from edge_s2s.generation import Check, FinishReason, Generation
from edge_s2s.job import Job, Source
from edge_s2s.manifest import MANIFEST, GenerationDefaults, Manifest
from edge_s2s.strict_json import build

MAX_SEARCHES = 4  # that the second rung may take
NUM_BEAMS = 4  # of the third
AGAINST_LOOPS = 4, 1.2  # no_repeat_ngram_size, repetition_penalty of the second and third
MIN_SENTENCE_WORDS = 3
ASK_CLOUD = "ask_cloud"


def run_checked(
    job: Job,
    sources: Sequence[Source],
    cancellation: Cancellation,
    checks: Sequence[Check],
    on_tokens: Callable[[list[int]], None] | None = None,
) -> list[list[Generation]]:
    """Results of each source that pass `checks`, as far as the ladder goes and the deadline lets it.

    `on_tokens` gets tokens of the first source's first try. What a constraint shaped is not checked.
    """
    n = job.params.num_return_sequences
    if not checks:
        return job.run(sources, cancellation, on_tokens)
    if job.params.num_beams > 1 and not job.params.do_sample:  # the others cost nothing
        all_beams = replace(job.params, num_return_sequences=job.params.num_beams)
        results = replace(job, params=all_beams).run(sources, cancellation, on_tokens)
    else:
        results = job.run(sources, cancellation, on_tokens)
    mended = []
    for source, best in zip(sources, results, strict=True):
        if source.constraint is None:
            # The seed, with which all of it comes again, and what was drawn for the first try.
            again = replace(job, on_progress=None, careful=None, seed=best[0].seed)
            climbed = _Ladder(again, source, cancellation, checks).climb(best, n)
            best = [replace(result, draws=best[0].draws) for result in climbed]
        mended.append(best[:n])
    return mended


@dataclass
class _Ladder:
    """One source on its way."""

    job: Job
    source: Source
    cancellation: Cancellation
    checks: Sequence[Check]
    text: str = field(init=False)
    evidence: Evidence = field(init=False)

    def __post_init__(self) -> None:
        self.text = self.source.text or self.job.parts.tokenizer.decode(self.source.input_ids)
        self.evidence = Evidence(self.text)

    def climb(self, results: Sequence[Generation], n: int) -> list[Generation]:
        """The `n` best of results, those that pass before those that do not; the first one mended."""
        passing = [result for result in results if not self._findings(result)]
        failing = [result for result in results if self._findings(result)]
        if failing and failing[0] is results[0]:
            if passing:
                passing[0] = _because(passing[0], *_reasons(self._findings(results[0])), "other")
            else:
                passing = [self._mended(failing.pop(0))]
        return [*passing, *map(self._left_as_it_is, failing)][:n]

    def _findings(self, result: Generation) -> Findings:
        """What the checks of this call see; a text that time cut short may end within a number."""
        found = self.evidence.check(result.text)
        is_whole = _is_whole(result)
        return Findings(
            numbers=found.numbers if "numbers" in self.checks and is_whole else (),
            names=found.names if "names" in self.checks and is_whole else (),
            loop=found.loop if "loops" in self.checks else None,
        )

    def _mended(self, draft: Generation) -> Generation:
        found = self._findings(draft)
        reasons = _reasons(found)
        if better := self._again(draft):
            return _because(better, *reasons, "again")
        if better := self._best_beam(found):
            return replace(_because(better, *reasons, "beam"), seed=draft.seed)
        if better := self._sentence(draft):
            return _because(better, *reasons, "sentence", ASK_CLOUD)
        return self._left_as_it_is(draft)

    def _left_as_it_is(self, draft: Generation) -> Generation:
        """With its findings as reasons, and without its loop."""
        reasons = _reasons(found := self._findings(draft))
        if found.loop:
            return _because(self._in_words(draft, before_loop(draft.text)), *reasons, "cut", ASK_CLOUD)
        return _because(draft, *reasons, ASK_CLOUD)

    # ------------------------------------------------ rungs ------------------------------------------------

    def _again(self, draft: Generation) -> Generation | None:
        forbidden: dict[tuple[int, ...], list[int]] = {}  # what may not follow some tokens
        job, given = self.job, self.source.target_prefix
        for i in range(MAX_SEARCHES):
            if job.ended(self.cancellation):
                return None
            found = self._findings(draft)
            if found.loop:
                job = replace(job, params=_against_loops(job.params))
                draft = self._searched(job, (), ())
            else:
                claim = min((*found.numbers, *found.names), key=lambda claim: claim.start)
                # First another number; then none, by forbidding the blank or the $ before it.
                place = self._token_at(draft, max(claim.start - (i > 0), 0))
                if place < len(given):
                    return None
                kept = draft.token_ids[len(given) : place]
                forbidden.setdefault(kept, []).append(draft.token_ids[place])
                again = self._searched(job, kept, forbidden[kept])
                draft = self._joined(draft, len(kept), again)
            if not _is_whole(draft):
                return None
            if not self._findings(draft):
                return draft
        return None

    def _best_beam(self, found: Findings) -> Generation | None:
        params = self.job.params
        if self.job.ended(self.cancellation) or (params.num_beams >= NUM_BEAMS and not found.loop):
            return None
        beams = replace(
            _against_loops(params) if found.loop else params,
            num_beams=NUM_BEAMS, num_return_sequences=NUM_BEAMS, num_beam_groups=1, diversity_penalty=0.0,
            do_sample=False,
        )  # fmt: skip
        [results] = replace(self.job, params=beams).run([self.source], self.cancellation)
        return next((result for result in results if _is_whole(result) and not self._findings(result)), None)

    def _sentence(self, draft: Generation) -> Generation | None:
        if self.source.target_prefix:
            return None  # with which a result has to begin
        said = words(draft.text)
        best, most = "", 0.0
        for line in self.text.splitlines():
            for sentence in map(str.strip, split_sentences(line)):
                theirs = words(sentence)
                nearness = rouge_l(theirs, said) if len(theirs) >= MIN_SENTENCE_WORDS else 0
                if nearness > most and not find_loop(sentence) and self._fits(sentence):
                    best, most = sentence, nearness
        return self._in_words(draft, best) if best else None

    # ------------------------------------------------ tokens -----------------------------------------------

    def _searched(self, job: Job, kept: Sequence[int], forbidden: Sequence[int]) -> Generation:
        """The best result that begins with `kept` and does not go on with `forbidden`, nor ends there."""
        params = replace(
            job.params,
            num_return_sequences=1,
            max_new_tokens=job.params.max_new_tokens - len(kept),
            min_new_tokens=max(job.params.min_new_tokens - len(kept), 1 if forbidden else 0),
            begin_suppress_tokens=(*(() if kept else job.params.begin_suppress_tokens), *forbidden),
        )
        source = replace(self.source, target_prefix=(*self.source.target_prefix, *kept))
        [[result]] = replace(job, params=params).run([source], self.cancellation)
        return result

    def _joined(self, draft: Generation, n_kept: int, rest: Generation) -> Generation:
        """The result of a search that went on from the first `n_kept` new tokens of a draft."""
        logprobs = (*draft.token_logprobs[:n_kept], *rest.token_logprobs)
        score = sum(logprobs) / max(len(logprobs), 1) ** self.job.params.length_penalty
        return replace(rest, token_logprobs=logprobs, score=score)

    def _token_at(self, draft: Generation, place: int) -> int:
        """Which token wrote the character at a place of its text."""
        decode = self.job.parts.target_tokenizer.decode
        low, high = 0, len(draft.token_ids) - 1
        while low < high:
            middle = (low + high) // 2
            if len(decode(draft.token_ids[: middle + 1])) > place:
                high = middle
            else:
                low = middle + 1
        return low

    def _fits(self, text: str) -> bool:
        return len(self.job.parts.target_tokenizer.tokenize(text)) < self.job.params.max_new_tokens

    def _in_words(self, draft: Generation, text: str) -> Generation:
        """The draft with a text that no search made."""
        ids = tuple(self.job.parts.target_tokenizer.tokenize(text))
        reason: FinishReason = "loop" if self._findings(draft).loop else "eos"
        if not _is_whole(draft):
            reason = draft.finish_reason
        return replace(draft, text=text, token_ids=ids, token_logprobs=(), finish_reason=reason)


def _is_whole(result: Generation) -> bool:
    """Whether it ended by itself, not because there was no time."""
    return result.finish_reason not in ("deadline", "cancelled")


def before_loop(text: str) -> str:
    """The longest beginning of a text, in whole words, without a loop."""
    ends = [0, *(match.end() for match in re.finditer(r"\S+", text))]
    low, high = 0, len(ends) - 1
    while low < high:  # a loop stays one when the text goes on
        middle = (low + high + 1) // 2
        if find_loop(text[: ends[middle]]):
            high = middle - 1
        else:
            low = middle
    while find_loop(text[: ends[low]]):  # except that a few words, all alike, are no loop yet
        low -= 1
    return text[: ends[low]]


def summary_checks(manifest: Manifest) -> tuple[Check, ...]:
    """The checks of `summarize`: the bundle's extension `checks`, such as ["loops"], or loops and numbers.

    Names are good evidence only where people hardly ever bring in new ones, so a bundle has to ask for it.
    """
    if (given := manifest.extensions.get("checks")) is None:
        return ("loops", "numbers")
    checks = build(tuple[Check, ...], given, MANIFEST, "extensions.checks")
    assert isinstance(checks, tuple)
    return checks


def _against_loops(params: GenerationDefaults) -> GenerationDefaults:
    size, penalty = AGAINST_LOOPS
    return replace(
        params,
        no_repeat_ngram_size=min(params.no_repeat_ngram_size or size, size),
        repetition_penalty=max(params.repetition_penalty, penalty),
    )


def _reasons(found: Findings) -> list[str]:
    return [
        *(["loop"] if found.loop else []),
        *(f"new_number {claim.text}" for claim in found.numbers),
        *(f"new_name {claim.text}" for claim in found.names),
    ]


def _because(result: Generation, *reasons: str) -> Generation:
    return replace(result, reasons=reasons)
