"""CTranslate2, int8: what people leave the others for."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

VERSION = f"ctranslate2 {version('ctranslate2')}"


def prepare(checkpoint: Path, folder: Path) -> None:
    """Convert the checkpoint to CTranslate2's int8 format."""
    import ctranslate2

    converter = ctranslate2.converters.TransformersConverter(str(checkpoint), load_as_float16=False)
    converter.convert(str(folder / "model"), quantization="int8", force=True)
    (folder / "checkpoint").write_text(str(checkpoint.resolve()))


def load(folder: Path, threads: int) -> Callable[[list[int], int], list[int]]:
    """Open the converted model; CTranslate2 takes tokens as strings, so the tokenizer comes along."""
    import ctranslate2
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path((folder / "checkpoint").read_text()) / "tokenizer.json"))
    translator = ctranslate2.Translator(
        str(folder / "model"), device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads
    )

    def generate(input_ids: list[int], n_tokens: int) -> list[int]:
        tokens = [tokenizer.id_to_token(i) for i in input_ids]
        result = translator.translate_batch(
            [tokens],
            beam_size=1,
            max_decoding_length=n_tokens,
            min_decoding_length=n_tokens,
            max_input_length=0,
        )
        return [tokenizer.token_to_id(t) for t in result[0].hypotheses[0]]

    return generate
