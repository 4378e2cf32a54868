"""A transformers tokenizer as the files of a bundle: the same tokens, by components that a bundle may bring.

Where transformers reads SentencePiece files, so do we (`sentencepiece_json.py`); its own conversions of them
lose accents. A fast tokenizer is written as it is, but without regular expressions, which a bundle cannot
bring.
"""

import json
from pathlib import Path
from typing import Any, Literal

from transformers import AutoTokenizer

from edge_s2s.manifest import TARGET_TOKENIZER, TOKENIZER, Languages, TextRules

from .errors import ExportError
from .sentencepiece_json import Pieces, pieces_of, sentencepiece_json
from .tokenizer_parts import added_token, byte_pair_model, document, dump, replace, template

MARK = "\ufdd0"  # one of Unicode's noncharacters, which are for internal use
RUNS_OF_BLANKS = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
REPLACEMENTS = [
    ("  ", MARK),  # a run of n becomes n // 2 marks, and a blank where n is odd
    (f"{MARK} ", MARK),
    *[(MARK * 2, MARK)] * 16,  # each halves their number: runs of up to 131072 blanks become one mark
    (MARK, "▁"),
]
LANGUAGE_MARK = ">>"  # of Marian: >>fra<<


def load_tokenizer(source: str | Path) -> Any:
    """The tokenizer that transformers has for a folder or hub id, by SentencePiece if there is one."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.is_fast and str(getattr(tokenizer, "vocab_file", "")).endswith(".model"):
        return AutoTokenizer.from_pretrained(source, use_fast=False)
    return tokenizer


def tokenizer_files(tokenizer: Any, vocab_size: int) -> dict[str, bytes]:
    """File name -> content: tokenizer.json, and another one for results where they have their own pieces.

    `vocab_size` is the number of tokens that the model knows. Raises `ExportError` for a tokenizer that a
    bundle cannot hold.
    """
    kind = type(tokenizer).__name__
    if tokenizer.is_fast:
        return {TOKENIZER: _fast_json(tokenizer)}
    if kind == "ByT5Tokenizer":
        return {TOKENIZER: _byte_json(tokenizer)}
    if kind == "BartTokenizer":
        return {TOKENIZER: _byte_level_json(tokenizer)}
    if kind == "MarianTokenizer":
        source, target = _marian_pieces(tokenizer)
        files = {TOKENIZER: sentencepiece_json(source, vocab_size, readable=False)}
        if source != target:
            files[TARGET_TOKENIZER] = sentencepiece_json(target, vocab_size)
        else:
            files[TOKENIZER] = sentencepiece_json(source, vocab_size)
        return files
    if file := getattr(tokenizer, "spm_file", None) or getattr(tokenizer, "vocab_file", None):
        proto = Path(file).read_bytes()
        vocab = getattr(tokenizer, "encoder", None)  # M2M100 has one beside its pieces
        return {TOKENIZER: sentencepiece_json(pieces_of(tokenizer, proto, vocab), vocab_size)}
    raise ExportError(
        f"tokenizer: expected tokenizer.json or SentencePiece files, found neither for {kind}; "
        "convert it with AutoTokenizer.from_pretrained(source, use_fast=True).save_pretrained(source)"
    )


def text_rules(tokenizer: Any) -> TextRules:
    """How the tokenizer joins what it decodes."""
    clean_up = bool(tokenizer.clean_up_tokenization_spaces)
    if tokenizer.is_fast or type(tokenizer).__name__ == "BartTokenizer":
        return TextRules(clean_up_spaces=clean_up)
    if type(tokenizer).__name__ == "ByT5Tokenizer":
        return TextRules(clean_up_spaces=clean_up, bad_bytes="drop")
    return TextRules(
        strip=True,
        clean_up_spaces=clean_up,
        bad_bytes="each",
        unknown_in_target=type(tokenizer).__name__ == "MarianTokenizer" and not tokenizer.separate_vocabs,
    )


Part = int | Literal["source", "target"]  # of what stands around a text


def language_tokens(tokenizer: Any) -> Languages:
    """The language codes of a multilingual tokenizer and where they stand; none for another one."""
    if type(tokenizer).__name__ == "MarianTokenizer":
        codes = [token for token in tokenizer.get_vocab() if token.startswith(LANGUAGE_MARK)]
        ids = {code.strip("<>"): tokenizer.convert_tokens_to_ids(code) for code in codes}
        if not ids:
            return Languages()
        return Languages(ids=ids, head=("target",), tail=(tokenizer.eos_token_id,))
    if not hasattr(tokenizer, "src_lang"):
        return Languages()
    ids = _language_ids(tokenizer)
    given = tokenizer.src_lang
    tokenizer.src_lang = code = next(iter(ids))
    before, behind = head_and_tail(tokenizer)
    tokenizer.src_lang = given
    return Languages(
        ids=ids,
        head=_with_source(before, ids[code]),
        tail=_with_source(behind, ids[code]),
        target_is_first_token=True,
        source=given if given in ids else None,
        target=tokenizer.tgt_lang if tokenizer.tgt_lang in ids else None,
    )


def _with_source(ids: list[int], language: int) -> tuple[Part, ...]:
    parts: list[Part] = [*ids]
    if language in ids:
        parts[ids.index(language)] = "source"
    return tuple(parts)


def _language_ids(tokenizer: Any) -> dict[str, int]:
    """Language code -> token id. M2M100 writes the token of en as __en__."""
    if hasattr(tokenizer, "lang_code_to_token"):
        return {code: tokenizer.get_lang_id(code) for code in tokenizer.lang_code_to_token}
    special = [token for token in tokenizer.additional_special_tokens if "_" in token]
    return {code: tokenizer.convert_tokens_to_ids(code) for code in special}


def head_and_tail(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The token ids before and behind those of a text."""
    text = -1  # no token's id
    ids = tokenizer.build_inputs_with_special_tokens([text])
    return ids[: ids.index(text)], ids[ids.index(text) + 1 :]


def _marian_pieces(tokenizer: Any) -> tuple[Pieces, Pieces]:
    source, target = (Path(file).read_bytes() for file in tokenizer.spm_files)
    target_vocab = tokenizer.target_encoder if tokenizer.separate_vocabs else tokenizer.encoder
    return pieces_of(tokenizer, source, tokenizer.encoder), pieces_of(tokenizer, target, target_vocab)


def _byte_json(tokenizer: Any) -> bytes:
    """ByT5: a token for each byte, which a BPE model without merges falls back to."""
    added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
    vocab = {name: i for i, name in added.items()}
    vocab |= {f"<0x{byte:02X}>": tokenizer.offset + byte for byte in range(256)}
    head, tail = head_and_tail(tokenizer)
    return document(
        added_tokens=[added_token(i, name) for i, name in sorted(added.items())],
        post_processor=template([(added[i], i) for i in head], [(added[i], i) for i in tail]),
        decoder={"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        model=byte_pair_model(vocab, [], byte_fallback=True),
    )


def _byte_level_json(tokenizer: Any) -> bytes:
    """BART: BPE over bytes that are written as letters."""
    added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
    head, tail = head_and_tail(tokenizer)
    byte_level = {
        "type": "ByteLevel", "add_prefix_space": tokenizer.add_prefix_space,
        "trim_offsets": True, "use_regex": True,
    }  # fmt: skip
    return document(
        added_tokens=[added_token(i, name) for i, name in sorted(added.items())],
        pre_tokenizer=byte_level,
        post_processor=template([(added[i], i) for i in head], [(added[i], i) for i in tail]),
        decoder=byte_level,
        model=byte_pair_model(tokenizer.encoder, sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)),
    )


def _fast_json(tokenizer: Any) -> bytes:
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    written = json.loads(backend.to_str())
    written["normalizer"] = _without_regex(written["normalizer"])
    return dump(written)


def _without_regex(normalizer: Any) -> Any:
    if normalizer == RUNS_OF_BLANKS:
        return {"type": "Sequence", "normalizers": [replace(text, by) for text, by in REPLACEMENTS]}
    if normalizer is not None and normalizer["type"] == "Sequence":
        return {**normalizer, "normalizers": [_without_regex(member) for member in normalizer["normalizers"]]}
    return normalizer
