"""Bugs to find: one of each class that readers of model files have had (tests/attacks/README.md).

A fuzzer that finds nothing proves little unless it finds these. Each is a change of a source file, made in a
copy for the fuzzer alone, so no shipped source has a switch for bugs; a change whose place has moved fails.
"""

from dataclasses import dataclass

from c_builds import ROOT


@dataclass(frozen=True)
class PlantedBug:
    """What is wrong, the target that finds it, and the text of `file` that becomes another."""

    what: str
    target: str
    file: str
    changes: tuple[tuple[str, str], ...]

    def source(self) -> str:
        """The file with the bug."""
        text = (ROOT / self.file).read_text(encoding="utf-8")
        for good, bad in self.changes:
            assert text.count(good) == 1, f"{self.file}: {good!r} is there {text.count(good)} times"
            text = text.replace(good, bad)
        return text


WEIGHTS_C, MODEL_C = "csrc/weights_file.c", "csrc/model.c"
API_C, CACHE_C = "csrc/api.c", "csrc/kv_cache.c"
FLOATS_OF_CACHE = "n_heads * (uint64_t)c->n_slots * max_target_len * (uint64_t)c->d_head"
MAX_RESCORE = "d->vocab_size < ES2S_MAX_HEAD_RESCORE ? d->vocab_size : ES2S_MAX_HEAD_RESCORE;"

IN_C = {
    "A": PlantedBug(
        "the number of floats of a cache wraps, and it gets a small block",
        "decode",
        CACHE_C,
        ((f"{FLOATS_OF_CACHE},", f"(uint8_t)({FLOATS_OF_CACHE}),"),),
    ),
    "B": PlantedBug(
        "the length of a string, plus one, wraps before it is compared",
        "weights",
        WEIGHTS_C,
        (("length > KEY_VALUE_SIZE :", "length + 1 > KEY_VALUE_SIZE + 1 :"),),
    ),
    "C": PlantedBug(
        "the product of dimensions wraps",
        "weights",
        WEIGHTS_C,
        (
            ("if (d < n_dims && dim > size / n_bytes)", "if (false)"),
            ("n_bytes *= dim;", "n_bytes = (uint16_t)(n_bytes * dim);"),
        ),
    ),
    "D": PlantedBug(
        "a tensor's end is not compared with the file's",
        "weights",
        WEIGHTS_C,
        (("if (offset > size || n_bytes > size - offset)", "if (false)"),),
    ),
    "E": PlantedBug(
        "a type is an index before it is compared",
        "weights",
        WEIGHTS_C,
        (("if (type < KEY_INT || type > KEY_STRING)", "if (type < KEY_INT)"),),
    ),
    "F": PlantedBug(
        "a number is compared after it was narrowed",
        "decode",
        WEIGHTS_C,
        (("if (value < min || value > max)", "if ((int16_t)value < min || (int16_t)value > max)"),),
    ),
    "G": PlantedBug(
        "a dimension may be zero, and something is divided by it",
        "weights",
        WEIGHTS_C,
        (("if (d < n_dims ? dim < 1 : dim != 0)", "if (d >= n_dims && dim != 0)"),),
    ),
    "H": PlantedBug(
        "an assertion is the check",
        "weights",
        WEIGHTS_C,
        (
            ("#include <stdio.h>", "#include <assert.h>\n#include <stdio.h>"),
            (
                "if (dtype != ES2S_FLOAT32 && dtype != ES2S_INT8)",
                "assert(dtype == ES2S_FLOAT32 || dtype == ES2S_INT8);\n    if (false)",
            ),
        ),
    ),
    "I": PlantedBug(
        "an argument may be negative",
        "decode",
        API_C,
        (("p->decoder_start_token_id, 0)", "p->decoder_start_token_id, INT32_MIN)"),),
    ),
    "L": PlantedBug(
        "a hyper-parameter is larger than the array that it fills",
        "decode",
        MODEL_C,
        ((MAX_RESCORE, "d->vocab_size;"),),
    ),
    "M": PlantedBug(
        "a string of a manifest may end behind the file",
        "bundle",
        "csrc/manifest.c",
        (("while (p < t.end && *p != '\"')", "while (*p != '\"')"),),
    ),
    "N": PlantedBug(
        "a file of an archive may end behind the archive",
        "bundle",
        "csrc/bundle_file.c",
        (
            ("start - offset < header || start - offset - header < size", "start - offset < header"),
            ("if (at != end || data_end != start)", "if (at != end)"),
        ),
    ),
}

IN_PYTHON = {
    "J": PlantedBug(
        "the prefix of a bundle is a template",
        "encode",
        "edge_s2s/tokenizer.py",
        (("self.tokenize(self._prefix + text)", "self.tokenize(self._prefix.format(text=text) + text)"),),
    ),
    "K": PlantedBug(
        "external data is refused among the initializers, and forgotten in attributes",
        "onnx",
        "edge_s2s/onnx_graph.py",
        (("if part in (5, 10):  # t, tensors", "if part == 0:"),),
    ),
}
