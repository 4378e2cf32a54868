"""One module a peer, named as the peer. Importing it imports its library, and nothing of another peer's.

    prepare(checkpoint, folder)  once: converts a Hugging Face folder into files of its own
    load(folder, threads, **setting) -> Loaded

Here are the distributions of each, whose versions are published; who lacks one is not measured. And the
settings that are tried for each model and number of threads, of which the fastest is measured: a name in
capitals is an environment variable of the process, others are arguments of `load`. A peer that takes tokens
as texts writes `tokens.json`, the text of each id, which the measuring process applies.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TypeAlias

Ids: TypeAlias = list[list[int]]
Setting: TypeAlias = dict[str, str]

OURS = "edge_s2s"
BUNDLE = "model.es2s"  # of ours, in its folder
PACKAGES = {
    OURS: ("edge_s2s",),
    "ctranslate2": ("ctranslate2",),
    "onnxruntime": ("onnxruntime",),
    "optimum": ("optimum-onnx", "onnxruntime", "transformers"),
    "transformers_int8": ("transformers", "torch"),
    "transformers": ("transformers", "torch"),
}
NAMES = tuple(PACKAGES)
_AS_IT_COMES: Setting = {}
SETTINGS: dict[str, list[Setting]] = {
    **{name: [_AS_IT_COMES] for name in NAMES},
    "ctranslate2": [
        _AS_IT_COMES,
        {"CT2_USE_MKL": "0"},
        {"CT2_USE_MKL": "1"},
        {"CT2_USE_MKL": "1", "CT2_USE_EXPERIMENTAL_PACKED_GEMM": "1"},
        {"CT2_FORCE_CPU_ISA": "AVX512"},
    ],
    "onnxruntime": [_AS_IT_COMES, {"spinning": "0"}],
    "optimum": [_AS_IT_COMES, {"spinning": "0"}],
}
GREEDY_ONLY = {"onnxruntime"}
_MATH: Setting = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
HELD: dict[str, dict[str, Setting]] = {
    "avx2": {
        OURS: {"isa": "avx2"},
        "ctranslate2": {"CT2_FORCE_CPU_ISA": "AVX2", **_MATH},
        "transformers": {"ATEN_CPU_CAPABILITY": "avx2", **_MATH},
    }
}
"""Kernel set -> who can be held to it on a CPU that has more, and how; the others ask the CPU alone."""


@dataclass(frozen=True)
class Loaded:
    """A model that is ready."""

    generate: Callable[[Ids, int | None, int], Ids]
    """(sources, n_tokens, num_beams) -> new tokens of the best sequence of each source, without the start
    token; exactly n_tokens, or, if that is None, until EOS or `MAX_NEW_TOKENS`."""
    encode: Callable[[Ids], float | None]
    """Seconds that the encoder takes for these sources; None if it cannot be run alone."""


MAX_NEW_TOKENS = 96  # as the default bundle has it


def installed(name: str) -> dict[str, str] | None:
    """Versions of a peer's packages; None if one is missing."""
    try:
        return {package: version(package) for package in PACKAGES[name]}
    except PackageNotFoundError:
        return None
