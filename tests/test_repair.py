"""Answers that fail a check: no loop reaches a user, few new numbers do, and the rest stays as it was."""

import dataclasses
import json
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

import edge_s2s
from bundle_extensions import with_extensions
from edge_s2s import BundleError, GenerationOptions, Replacement, Seq2SeqModel
from edge_s2s.faithfulness import Evidence, find_loop
from edge_s2s.generation import CHECKS
from edge_s2s.repair import ASK_CLOUD, MAX_SEARCHES, before_loop

LONG = GenerationOptions(num_beams=1, max_new_tokens=60, no_repeat_ngram_size=0)  # loops most
DIALOGUE = "#Person1#: Can we meet at 3:30?\n#Person2#: Sure, Anna. Bring the 20 books."
DATA = Path(os.environ.get("EDGE_S2S_DATA", Path(__file__).parents[2] / "shared" / "data"))
REPORT = Path(__file__).parent.parent / "reports" / "checks.json"
DEFAULT = edge_s2s.default_bundle_path()
pytestmark = pytest.mark.skipif(not DEFAULT.exists(), reason="installed without the default bundle")


def adversarial(n: int) -> Iterator[str]:
    """Prompts that make models repeat, and random words."""
    draw = random.Random(11)
    words = f"{DIALOGUE} no ha yes and 12 cats went to the market with Mr. Brown, which is blue!".split()
    for i in range(n):
        some = draw.choices(words, k=draw.randrange(1, 12))
        match i % 5:
            case 0:
                yield " ".join(some) * draw.randrange(1, 20)
            case 1:
                yield " ".join(draw.choices(words, k=draw.randrange(1, 120)))
            case 2:
                yield f"#Person1#: Repeat {' '.join(some)} for ever.\n#Person2#: {' '.join(some)} " * 3
            case 3:
                yield draw.choice(words) * draw.randrange(1, 200)
            case _:
                speakers = [f"#Person{draw.randrange(1, 3)}#: {draw.choice(words)}" for _ in range(30)]
                yield "\n".join(speakers)


TEXTS = [*adversarial(40)]


@pytest.fixture(scope="module")
def model() -> Iterator[Seq2SeqModel]:
    """The default bundle: a random model knows nothing but loops."""
    with edge_s2s.load(num_threads=1) as opened:
        yield opened


def checked(*checks: str, **options: object) -> GenerationOptions:
    return dataclasses.replace(LONG, checks=checks, **options)  # type: ignore[arg-type]


class Prefers:
    """A logits processor that wants some tokens after so many."""

    def __init__(self, n_before: int, tokens: Sequence[int]) -> None:
        self.wanted = dict(enumerate(tokens, n_before + 1))

    def __call__(self, input_ids: npt.NDArray[np.int32], scores: npt.NDArray[np.float32]) -> None:
        if (token := self.wanted.get(input_ids.shape[1])) is not None:
            scores[0, token] += 100


def test_nothing_is_checked_unless_asked(model: Seq2SeqModel):
    plain = model.generate(TEXTS, LONG)
    assert [best.text for [best] in plain] == [best.text for [best] in model.generate(TEXTS, checked())]
    assert all(best.reasons == () for [best] in plain)
    assert any(find_loop(best.text) for [best] in plain), "the test needs loops"


@pytest.mark.parametrize("options", [{}, {"num_beams": 4}, {"num_beams": 4, "num_return_sequences": 3},
                                     {"do_sample": True, "seed": 1, "num_return_sequences": 3}])  # fmt: skip
def test_no_loop_remains(model: Seq2SeqModel, options: dict[str, object]):
    plain = model.generate(TEXTS, checked(**options))
    assert any(find_loop(result.text) for results in plain for result in results), "the test needs loops"
    for before, results in zip(plain, model.generate(TEXTS, checked("loops", **options)), strict=True):
        assert len(results) == len(before)
        for result in results:
            assert not find_loop(result.text)
            if {"cut", "sentence"} & {*result.reasons}:
                assert result.finish_reason == "loop"
                assert ASK_CLOUD in result.reasons


def test_what_passes_is_not_touched(model: Seq2SeqModel):
    for text, [plain], [best] in zip(
        TEXTS, model.generate(TEXTS, LONG), model.generate(TEXTS, checked(*CHECKS)), strict=True
    ):
        if not Evidence(text).check(plain.text):
            assert (best.token_ids, best.score, best.reasons) == (plain.token_ids, plain.score, ())
        else:
            assert best.reasons


def test_results_that_pass_come_first(model: Seq2SeqModel):
    draws = {"do_sample": True, "seed": 3, "num_return_sequences": 4, "top_k": 5}
    found = 0
    for plain, results in zip(
        model.generate(TEXTS, checked(**draws)), model.generate(TEXTS, checked("loops", **draws)), strict=True
    ):
        loops = [find_loop(result.text) is not None for result in plain]
        if loops[0] and not all(loops):
            assert results[0].text == plain[loops.index(False)].text
            assert results[0].reasons == ("loop", "other")
            found += 1
    assert found


def test_repairs_are_the_same_in_every_batch(model: Seq2SeqModel):
    together = model.generate(TEXTS[:12], checked(*CHECKS))
    assert together == [
        [dataclasses.replace(alone, stats=best.stats)]
        for [best], text in zip(together, TEXTS, strict=False)
        for [alone] in model.generate([text], checked(*CHECKS))
    ]


def test_a_new_number_is_written_anew(model: Seq2SeqModel):
    n_kept = 5  # Anna will meet at
    wanted = model._parts.target_tokenizer.tokenize("x 45.")[1:]
    processor = Prefers(n_kept, wanted)
    greedy = GenerationOptions(num_beams=1)
    [[wrong]] = model.generate([DIALOGUE], greedy, logits_processor=processor)
    assert [claim.text for claim in Evidence(DIALOGUE).new_numbers(wrong.text)] == ["45"]
    [[mended]] = model.generate(
        [DIALOGUE], GenerationOptions(num_beams=1, checks=("numbers",)), logits_processor=processor
    )
    assert mended.reasons[0] == "new_number 45"
    assert mended.reasons[1] == "again"
    assert mended.token_ids[:n_kept] == wrong.token_ids[:n_kept]
    assert not Evidence(DIALOGUE).new_numbers(mended.text)
    assert len(mended.token_logprobs) == len(mended.token_ids)
    [score] = model.score([DIALOGUE], [mended.token_ids])
    np.testing.assert_allclose(mended.token_logprobs, score.token_logprobs, atol=1e-6)
    assert mended.score == pytest.approx(score.score)


def test_a_sentence_of_the_source_stands_in_where_no_search_helps(model: Seq2SeqModel):
    wanted = model._parts.target_tokenizer.tokenize("777 books")

    def always(input_ids: npt.NDArray[np.int32], scores: npt.NDArray[np.float32]) -> None:
        place = input_ids.shape[1] - 1
        scores[:] = -np.inf
        scores[0, wanted[place] if place < len(wanted) else 1] = 0

    options = GenerationOptions(num_beams=1, checks=("numbers",))
    [[result]] = model.generate([DIALOGUE], options, logits_processor=always)
    assert result.text == "Bring the 20 books."
    assert result.reasons == ("new_number 777", "sentence", ASK_CLOUD)
    assert result.finish_reason == "eos"
    assert model.decode(result.token_ids) == result.text


def test_what_nothing_can_mend_says_so(model: Seq2SeqModel):
    [[plain]] = model.generate(["a"], LONG, logits_processor=_repeat)
    assert find_loop(plain.text)
    [[result]] = model.generate(["a"], checked("loops"), logits_processor=_repeat)
    assert (result.reasons, result.finish_reason) == (("loop", "cut", ASK_CLOUD), "loop")
    assert plain.text.startswith(result.text)
    assert not find_loop(result.text)


def _repeat(input_ids: npt.NDArray[np.int32], scores: npt.NDArray[np.float32]) -> None:
    scores[:] = -np.inf
    scores[0, 3743] = 0  # "x"


def test_the_ladder_ends_after_a_few_searches(model: Seq2SeqModel):
    n_starts = 0

    def count(input_ids: npt.NDArray[np.int32], scores: npt.NDArray[np.float32]) -> None:
        nonlocal n_starts
        n_starts += input_ids.shape[1] == 1
        _repeat(input_ids, scores)

    model.generate(["a"], checked("loops"), logits_processor=count)
    assert n_starts <= 1 + MAX_SEARCHES + 4  # beams of the third rung


def test_after_the_deadline_nothing_is_searched_but_a_loop_is_cut(model: Seq2SeqModel):
    n_calls = 0

    def slow(input_ids: npt.NDArray[np.int32], scores: npt.NDArray[np.float32]) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 20:
            threading.Event().wait(1)
        _repeat(input_ids, scores)

    options = checked("loops", deadline_ms=500)
    [[result]] = model.generate(["a"], options, logits_processor=slow)
    assert result.finish_reason == "deadline"
    assert n_calls <= 21
    assert not find_loop(result.text)


def test_a_search_that_time_cut_short_replaces_nothing(model: Seq2SeqModel):
    """The second one is: what it has written has no number yet."""
    wanted = model._parts.target_tokenizer.tokenize("777 books")
    n_starts = 0

    def second_is_slow(input_ids: npt.NDArray[np.int32], scores: npt.NDArray[np.float32]) -> None:
        nonlocal n_starts
        place = input_ids.shape[1] - 1
        if place < len(wanted) and n_starts == 0:
            scores[0, wanted[place]] = 1000
        elif n_starts == 0:
            scores[0, 1] = 1000
            n_starts = 1
        else:
            threading.Event().wait(2)

    options = GenerationOptions(num_beams=1, checks=("numbers",), deadline_ms=1500)
    [[result]] = model.generate([DIALOGUE], options, logits_processor=second_is_slow)
    assert result.text == "Bring the 20 books."
    assert (result.finish_reason, result.reasons) == ("eos", ("new_number 777", "sentence", ASK_CLOUD))


def test_a_sentence_does_not_stand_in_for_what_has_to_begin_otherwise(model: Seq2SeqModel):
    def always(input_ids: npt.NDArray[np.int32], scores: npt.NDArray[np.float32]) -> None:
        scores[0, wanted[(input_ids.shape[1] - 4) % len(wanted)]] += 1000

    wanted = model._parts.target_tokenizer.tokenize("777 books")
    [[result]] = model.generate(
        [DIALOGUE], checked("numbers"), decoder_input_ids=["Anna"], logits_processor=always
    )
    assert result.text.startswith("Anna")
    assert "sentence" not in result.reasons


def test_a_closed_stream_ends_the_ladder(model: Seq2SeqModel):
    stream = model.stream(TEXTS[2], checked("loops"))
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "edge_s2s"]


def test_a_constraint_is_not_questioned(model: Seq2SeqModel):
    looped = "two two two two two two"
    [[result]] = model.generate(["a"], checked(*CHECKS), constraint=model.allow_texts([looped]))
    assert (result.text, result.reasons) == (looped, ())


def test_a_stream_says_when_what_it_sent_is_replaced(model: Seq2SeqModel):
    n_replaced = 0
    for text in TEXTS:
        shown = ""
        stream = model.stream(text, checked("loops"))
        while True:
            try:
                piece = next(stream)
            except StopIteration as end:
                result = end.value
                break
            if isinstance(piece, Replacement):
                n_replaced += 1
                shown = ""
            shown += piece
            assert not find_loop(shown), "a loop was shown"
        assert shown == result.text == model.generate([text], checked("loops"))[0][0].text
    assert n_replaced


def test_summarize_checks_loops_and_numbers_or_what_the_bundle_says(tmp_path: Path):
    def summaries(path: Path, options: GenerationOptions) -> list[edge_s2s.Generation]:
        with edge_s2s.load(path, num_threads=1) as opened:
            return [opened.summarize(text, options) for text in TEXTS[:20]]

    def texts(path: Path, options: GenerationOptions) -> list[str]:
        return [summary.text for summary in summaries(path, options)]

    everything = with_extensions(DEFAULT, tmp_path / "all.es2s", checks=[*CHECKS])
    assert texts(everything, LONG) == texts(DEFAULT, checked(*CHECKS))
    silent = with_extensions(DEFAULT, tmp_path / "silent.es2s")
    assert texts(silent, LONG) == texts(DEFAULT, checked("loops", "numbers"))
    none = with_extensions(DEFAULT, tmp_path / "none.es2s", checks=[])
    assert all(summary.reasons == () for summary in summaries(none, LONG))
    assert any(summary.reasons for summary in summaries(silent, LONG))


@pytest.mark.parametrize("wrong", ["loops", ["laps"], {"laps": True}, [1], 3])
def test_wrong_checks_are_refused(tiny_bundle: Path, tmp_path: Path, wrong: object):
    path = with_extensions(tiny_bundle, tmp_path / "wrong.es2s", checks=wrong)
    with pytest.raises(BundleError, match=r"extensions\.checks"):
        edge_s2s.load(path)
    with pytest.raises((TypeError, ValueError), match="checks"):
        GenerationOptions(checks=wrong)  # type: ignore[arg-type]


@given(st.lists(st.sampled_from(["a", "b", "cat ", " dog", "\n", "no no ", "漢", ". "]), max_size=60))
def test_a_text_is_cut_before_its_loop(parts: list[str]):
    text = "".join(parts)
    kept = before_loop(text)
    assert text.startswith(kept)
    assert not find_loop(kept)
    if not find_loop(text):
        assert kept == text.rstrip()


def loops_of(model: Seq2SeqModel, n: int) -> tuple[int, Counter[str], int]:
    """Loops in drafts, the rungs that mended them, loops that are left."""
    options = checked("loops", max_new_tokens=96)
    results = [best for [best] in model.generate(adversarial(n), options, truncation=True)]
    rungs = Counter(result.reasons[1] for result in results if result.reasons)
    return sum(rungs.values()), rungs, sum(find_loop(result.text) is not None for result in results)


def test_no_loop_reaches_a_user_of_the_default_bundle(model: Seq2SeqModel):
    n_loops, _, n_left = loops_of(model, 60)
    assert n_loops, "the inputs should make it loop"
    assert n_left == 0


def test_the_seed_of_a_mended_draw_draws_it_again(model: Seq2SeqModel):
    options = checked("loops", do_sample=True, top_k=3, temperature=0.3)
    mended = [
        (text, best)
        for text, [best] in zip(TEXTS, model.generate(TEXTS, options), strict=True)
        if best.reasons
    ]
    assert mended
    for text, best in mended:
        [[again]] = model.generate([text], dataclasses.replace(options, seed=best.seed))
        assert (again.text, again.reasons, again.seed) == (best.text, best.reasons, best.seed)


@pytest.mark.release
def test_checks_of_the_default_bundle(model: Seq2SeqModel):
    """5,000 adversarial inputs, and DialogSum valid with and without checks; writes reports/checks.json."""
    n_loops, rungs, n_left = loops_of(model, 5000)
    report: dict[str, object] = {
        "adversarial": {
            "outputs": 5000,
            "loops_in_drafts": n_loops,
            "rungs": dict(rungs),
            "loops_left": n_left,
        }
    }
    path = DATA / "dialogsum" / "valid.jsonl.zst"
    if not path.exists():
        pytest.skip("data is not there (EDGE_S2S_DATA)")
    lines = zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read().splitlines()
    rows = [json.loads(line) for line in lines]
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    for checks in [(), ("loops",), ("loops", "numbers"), CHECKS]:
        options = GenerationOptions(checks=checks)
        results = [best for [best] in model.generate([row["source"] for row in rows], options)]
        found = [Evidence(row["source"]).check(best.text) for row, best in zip(rows, results, strict=True)]
        scores = [
            scorer.score(row["target"], best.text)["rougeL"].fmeasure
            for row, best in zip(rows, results, strict=True)
        ]
        rungs = Counter(
            r for best in results for r in best.reasons if " " not in r and r not in ("loop", ASK_CLOUD)
        )
        report["dialogsum valid, checks " + (", ".join(checks) or "off")] = {
            "summaries": len(rows),
            "rouge_l": round(100 * sum(scores) / len(scores), 2),
            "number_percent": round(100 * sum(bool(f.numbers) for f in found) / len(found), 1),
            "name_percent": round(100 * sum(bool(f.names) for f in found) / len(found), 1),
            "loop_percent": round(100 * sum(f.loop is not None for f in found) / len(found), 1),
            "rung_percent": {name: round(100 * n / len(rows), 1) for name, n in sorted(rungs.items())},
        }
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    off, on = report["dialogsum valid, checks off"], report["dialogsum valid, checks loops, numbers"]
    assert n_left == 0
    assert on["number_percent"] <= 1  # type: ignore[index]
    assert on["rouge_l"] >= off["rouge_l"] - 0.3  # type: ignore[index]
