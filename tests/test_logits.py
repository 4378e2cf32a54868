"""Every rule, alone and in pairs, against transformers' processors in transformers' order, on random scores.

`csrc/logits.c` is compiled alone, with the compiler that builds the core.
"""

import itertools
import subprocess
from typing import Any

import numpy as np
import pytest
import torch
from cffi import FFI
from transformers import GenerationConfig, GenerationMixin

from test_csrc import ROOT, find_tool
from test_search_parity import EncoderRepetitionPenalty
from tiny_models import EOS

VOCAB = 7  # so that n-grams and words occur
N_CASES = 24  # of a set of rules
MAX_NEW = 12
CONTEXT = """
typedef struct es2s_rule_context {
    const int32_t *history;
    int32_t n_history, n_prompt, n_source_ids;
    const int32_t *source_ids;
} es2s_rule_context;
void es2s_logits_apply_rules(const es2s_generate_params *params, const es2s_rule_context *context,
                             float *scores, int32_t vocab_size, float *scratch);
"""
RULES: dict[str, list[Any]] = {
    "sequence_bias": [{(3,): 1.5, (EOS,): -0.5, (2, 3): -2.5, (2, 4, 3): 0.75}, {(5, 5): 4.0}],
    "encoder_repetition_penalty": [0.4, 2.5],
    "repetition_penalty": [0.6, 1.8],
    "no_repeat_ngram_size": [1, 2, 3],
    "encoder_no_repeat_ngram_size": [1, 2, 3],
    "bad_words_ids": [[[3], [EOS], [4, 2], [5, 5, 6]]],
    "min_new_tokens": [1, 6],
    "forced_bos_token_id": [4],
    "forced_eos_token_id": [EOS],
    "exponential_decay_length_penalty": [(0, 1.3), (3, 0.5), (2, 2.75)],
    "suppress_tokens": [[2, 6]],
    "begin_suppress_tokens": [[3, EOS]],
}
PAIRS = [*itertools.combinations(RULES, 1), *itertools.combinations(RULES, 2)]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> tuple[FFI, Any]:
    header = (ROOT / "csrc" / "include" / "edge_s2s.h").read_text(encoding="utf-8")
    library = tmp_path_factory.mktemp("logits") / "logits.so"
    command = [find_tool("cc"), "-std=c11", "-O1", "-ffp-contract=off", "-shared", "-fPIC"]
    source = [str(ROOT / "csrc" / "logits.c"), "-I", str(ROOT / "csrc" / "include"), "-I", str(ROOT / "csrc")]
    subprocess.run([*command, *source, "-o", str(library)], check=True)
    ffi = FFI()
    ffi.cdef(
        header.split("/* ---- cffi reads from here ---- */")[1].split("/* ---- cffi reads to here ---- */")[0]
    )
    ffi.cdef(CONTEXT)
    return ffi, ffi.dlopen(str(library))


def ours(
    core: tuple[FFI, Any], rules: dict[str, Any], history: list[int], n_prompt: int, source: list[int],
    scores: np.ndarray,
) -> np.ndarray:  # fmt: skip
    ffi, lib = core
    keep: list[Any] = []

    def array(kind: str, values: Any) -> Any:
        keep.append(ffi.new(f"{kind}[]", values))
        return keep[-1]

    p = ffi.new("es2s_generate_params *")
    p.max_new_tokens, p.eos_token_id = MAX_NEW, EOS
    p.repetition_penalty = p.encoder_repetition_penalty = p.exponential_decay_factor = 1
    p.forced_bos_token_id = p.forced_eos_token_id = -1
    for name, value in rules.items():
        if name in ("suppress_tokens", "begin_suppress_tokens"):
            setattr(p, name, array("int32_t", value))
            setattr(p, f"n_{name}", len(value))
        elif name in ("bad_words_ids", "sequence_bias"):
            words = [list(word) for word in value]
            prefix = "bad_words" if name == "bad_words_ids" else "sequence_bias"
            setattr(p, f"{prefix}_ids", array("int32_t", [token for word in words for token in word]))
            setattr(p, f"{prefix}_lens", array("int32_t", list(map(len, words))))
            setattr(p, f"n_{prefix}", len(words))
            if name == "sequence_bias":
                p.sequence_bias = array("float", list(value.values()))
        elif name == "exponential_decay_length_penalty":
            p.exponential_decay_start, p.exponential_decay_factor = value
        else:
            setattr(p, name, value)
    context = ffi.new("es2s_rule_context *")
    context.history, context.n_history, context.n_prompt = array("int32_t", history), len(history), n_prompt
    context.source_ids, context.n_source_ids = array("int32_t", source), len(source)
    ruled = scores.copy()
    scratch = array("float", max(len(history), len(source)))
    lib.es2s_logits_apply_rules(p, context, ffi.from_buffer("float[]", ruled), len(ruled), scratch)
    return ruled


def transformers_rules(
    rules: dict[str, Any], history: list[int], n_prompt: int, source: list[int], scores: np.ndarray
) -> np.ndarray:
    """Processors and their order come from generate() itself."""
    config = GenerationConfig(**rules, max_length=n_prompt + MAX_NEW, eos_token_id=EOS)
    config._eos_token_tensor = torch.tensor([EOS])
    processors = GenerationMixin()._get_logits_processor(
        config, n_prompt, torch.tensor([source]), device="cpu"
    )
    return processors(torch.tensor([history]), torch.from_numpy(scores.copy())[None])[0].numpy()


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_rules_are_those_of_transformers(
    core: tuple[FFI, Any], names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    processor = "transformers.generation.utils.EncoderRepetitionPenaltyLogitsProcessor"
    monkeypatch.setattr(processor, EncoderRepetitionPenalty)
    rng = np.random.default_rng(sum(map(ord, "".join(names))))
    n_changed = 0
    for case in range(N_CASES):
        rules = {name: RULES[name][rng.integers(len(RULES[name]))] for name in names}
        n_prompt = 1 if case % 3 else 3
        n_generated = (0, 1, MAX_NEW - 1, rng.integers(2, MAX_NEW))[case % 4]
        history = rng.integers(VOCAB, size=n_prompt + n_generated).tolist()
        source = rng.integers(VOCAB, size=rng.integers(1, 9)).tolist()
        scores = rng.normal(size=VOCAB).astype(np.float32) * 4 - (case % 2) * 6
        found = ours(core, rules, history, n_prompt, source, scores)
        expected = transformers_rules(rules, history, n_prompt, source, scores)
        # The one difference: where transformers has -inf + inf, a forbidden EOS stays forbidden.
        assert not np.isnan(np.delete(expected, EOS)).any()
        expected[np.isnan(expected)] = -np.inf
        np.testing.assert_allclose(
            found, expected, rtol=1e-6, atol=1e-6, err_msg=f"{rules} {history} {source}"
        )
        n_changed += not np.array_equal(found, scores)
    assert n_changed >= N_CASES // 8, "the rules show in too few cases"


def test_a_length_decay_that_transformers_cannot_raise_is_bounded(core: tuple[FFI, Any]):
    scores = np.full(VOCAB, -50, np.float32)
    with pytest.raises(OverflowError):
        pow(1000.0, 200)
    ffi, lib = core
    p = ffi.new("es2s_generate_params *")
    p.max_new_tokens, p.repetition_penalty, p.encoder_repetition_penalty = 500, 1, 1
    p.forced_bos_token_id = p.forced_eos_token_id = -1
    p.eos_token_id, p.exponential_decay_factor = EOS, 1000.0
    history = ffi.new("int32_t[]", 201)
    context = ffi.new("es2s_rule_context *", {"history": history, "n_history": 201, "n_prompt": 1})
    lib.es2s_logits_apply_rules(
        p, context, ffi.from_buffer("float[]", scores), VOCAB, ffi.new("float[]", 201)
    )
    assert np.isfinite(scores).all()
    assert scores.argmax() == EOS
