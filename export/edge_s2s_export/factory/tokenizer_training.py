"""BPE tokenizers with byte fallback, of parts that a bundle may bring: no text is unknown, none is split by
a regular expression.

Ids: 0 <pad>, 1 </s>, 2 <unk>, extra ids, 256 bytes, pieces. NFKC; words carry a leading U+2581; each digit,
newline and mark of punctuation is a piece of its own.

Names such as #Person1# are one piece because their merges come first. Added tokens would be simpler, but the
runtime takes those for special, and they eat the blanks beside them. Digits stay single because no merge
that is learned has one.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from edge_s2s_export.errors import ExportError

from .recipe import TokenizerOptions

SPECIAL = ("<pad>", "</s>", "<unk>")
PAD, EOS = 0, 1
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
MAX_PIECE = 16  # characters
MAX_ALPHABET = 180  # others are bytes
_BLANK = "▁"
_PUNCTUATION = '.,;:!?()[]"'
_MAX_LENGTH = 512


def train_tokenizer(texts: Iterable[str], options: TokenizerOptions) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocab_size` tokens; fewer if the texts have no more pieces."""
    _check(options)
    special = [*SPECIAL, *(f"<extra_id_{i}>" for i in range(options.n_extra_ids))]
    name_pieces, name_merges = _merges_of_names(options.names)
    learner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    learner.normalizer = normalizers.NFKC()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [*_splits(), pre_tokenizers.Digits(individual_digits=True)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocab_size - len(name_pieces),
        special_tokens=[*special, *BYTES],
        initial_alphabet=[*"0123456789\n", _BLANK],
        limit_alphabet=MAX_ALPHABET,
        max_token_length=MAX_PIECE,
        show_progress=False,
    )
    learner.train_from_iterator(_without(options.names, texts), trainer)
    learned = json.loads(learner.to_str())["model"]
    vocab = dict(learned["vocab"])
    for piece in name_pieces:
        vocab.setdefault(piece, len(vocab))
    learned_merges = [tuple(pair) for pair in learned["merges"]]
    merges = dict.fromkeys([*name_merges, *learned_merges])  # of two equal ones the first counts
    return _assemble(models.BPE(vocab, [*merges], unk_token="<unk>", byte_fallback=True), special)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """As transformers reads it."""
    tokenizer.save_pretrained(folder)


def check_fits(tokenizer: Any, model: Any, where: str) -> None:
    """Raises `ExportError` if a model was not trained with such a tokenizer."""
    n_tokens, vocab_size = len(tokenizer), model.config.vocab_size
    if n_tokens > vocab_size:
        raise ExportError(
            f"{where}: expected a tokenizer of at most {vocab_size} tokens, as many as the model has, found"
            f" {n_tokens}; give the folder with the model's own tokenizer"
        )
    for name in ("pad_token_id", "eos_token_id"):
        ours, theirs = getattr(tokenizer, name), getattr(model.config, name)
        if ours != theirs:
            raise ExportError(
                f"{where}: expected the tokenizer's {name} to be the model's {theirs}, found {ours};"
                " give the folder with the model's own tokenizer"
            )


def _check(options: TokenizerOptions) -> None:
    least = len(SPECIAL) + options.n_extra_ids + len(BYTES) + 32
    if options.vocab_size < least:
        raise ExportError(f"tokenizer.vocab_size: expected at least {least}, found {options.vocab_size}")
    for name in options.names:
        if not name or set(name) & {*_PUNCTUATION, *" \n", _BLANK}:
            raise ExportError(
                f"tokenizer.names: expected names without blanks and {_PUNCTUATION}, found {name!r}"
            )


def _splits() -> list[Any]:
    return [
        pre_tokenizers.Split("\n", "isolated"),
        pre_tokenizers.Metaspace(_BLANK, prepend_scheme="always", split=True),
        *(pre_tokenizers.Split(mark, "isolated") for mark in _PUNCTUATION),
    ]


def _merges_of_names(names: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces and merges that make each name, and each name behind a blank, one piece."""
    pieces: dict[str, None] = dict.fromkeys(character for name in names for character in name)
    merges: dict[tuple[str, str], None] = {}
    for name in names:
        for end in range(1, len(name)):
            merges[name[:end], name[end]] = None
            pieces[name[: end + 1]] = None
    for name in names:
        merges[_BLANK, name] = None
        pieces[_BLANK + name] = None
    return [*pieces], [*merges]


def _without(names: Sequence[str], texts: Iterable[str]) -> Iterator[str]:
    """Pieces are not spent on what names are made of."""
    for text in texts:
        for name in names:
            text = text.replace(name, " ")  # one after the other
        yield text


def _assemble(model: models.BPE, special: Sequence[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens([*special])
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_splits())
    replace = decoders.Replace
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(), decoders.Fuse(), replace(_BLANK, " "),
            replace(" \n ", "\n"), replace(" \n", "\n"), decoders.Strip(" ", 1, 0),
        ]
    )  # fmt: skip
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[*special[len(SPECIAL) :]],
        clean_up_tokenization_spaces=False,
        model_max_length=_MAX_LENGTH,
    )
