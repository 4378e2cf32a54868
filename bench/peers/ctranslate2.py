"""CTranslate2, int8: what people leave the others for.

Its import also imports torch and transformers where they are installed, for the converter: seconds and
hundreds of megabytes that a user without them does not pay. So they are hidden here, and its own command
converts.
"""

import json
import subprocess
import sys
from pathlib import Path

for _name in ("torch", "transformers", "huggingface_hub"):
    sys.modules[_name] = None  # type: ignore[assignment]  # an import of it is now an ImportError

import ctranslate2  # noqa: E402

from bench.peers import MAX_NEW_TOKENS, Loaded  # noqa: E402

_MODEL = "model"
_CONVERT = "from ctranslate2.converters.transformers import main; main()"


def prepare(checkpoint: Path, folder: Path) -> None:
    """Converts the checkpoint to int8."""
    command = [sys.executable, "-c", _CONVERT, "--model", str(checkpoint), "--quantization", "int8"]
    subprocess.run([*command, "--output_dir", str(folder / _MODEL)], check=True)
    vocabulary = json.loads((folder / _MODEL / "shared_vocabulary.json").read_text(encoding="utf-8"))
    (folder / "tokens.json").write_text(json.dumps(vocabulary), encoding="utf-8")


def load(folder: Path, threads: int) -> Loaded:
    """Opens the converted model."""
    translator = ctranslate2.Translator(
        str(folder / _MODEL), device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads
    )

    def generate(sources: list[list[str]], n_tokens: int | None, num_beams: int) -> list[list[str]]:
        results = translator.translate_batch(
            sources,
            beam_size=num_beams,
            max_decoding_length=n_tokens or MAX_NEW_TOKENS,
            min_decoding_length=n_tokens or 1,
            max_input_length=0,
            max_batch_size=len(sources),
            return_end_token=True,
        )
        return [result.hypotheses[0] for result in results]

    def encode(sources: list[list[str]]) -> None:
        """It cannot be run alone."""

    return Loaded(generate, encode)  # type: ignore[arg-type]  # tokens are texts here
