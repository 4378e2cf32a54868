"""What the results of each source begin with: `decoder_input_ids` of `generate`."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from edge_s2s.decoder import Dims
from edge_s2s.manifest import GenerationDefaults
from edge_s2s.tokenizer import Tokenizer, check_token_ids

TargetPrefix: TypeAlias = Sequence[int] | Sequence[str] | str | None
"""What a result begins with: token ids, names of tokens, or a text."""


def target_prefixes(
    given: Iterable[TargetPrefix] | None,
    n_texts: int,
    params: GenerationDefaults,
    dims: Dims,
    tokenizer: Tokenizer,
) -> list[tuple[int, ...]]:
    """Token ids for each of `n_texts`, without the start token; TypeError or ValueError if one is wrong.

    `tokenizer` is that of results.
    """
    name = "decoder_input_ids"
    if given is None:
        return [()] * n_texts
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{name}: expected one for each text, found one {type(given).__name__}")
    each = [*given]
    if len(each) != n_texts:
        raise ValueError(f"{name}: expected one for each of {n_texts} texts, found {len(each)}")
    names = [name] if n_texts == 1 else [f"{name}[{i}]" for i in range(n_texts)]
    prefixes = []
    for prefix, its_name in zip(each, names, strict=True):
        ids = _token_ids(prefix, its_name, params, dims, tokenizer)
        if ids and len(ids) + params.max_new_tokens > dims.max_target_len:
            raise ValueError(
                f"{its_name}: {len(ids)} tokens and {params.max_new_tokens} max_new_tokens are more "
                f"than the {dims.max_target_len} that this model generates"
            )
        prefixes.append(tuple(ids))
    return prefixes


def _token_ids(
    given: TargetPrefix, name: str, params: GenerationDefaults, dims: Dims, tokenizer: Tokenizer
) -> list[int]:
    if given is None:
        return []
    if isinstance(given, str):
        ids = tokenizer.tokenize(given)
        first = params.forced_bos_token_id
        return [first, *ids] if ids and first is not None else ids
    if isinstance(given, Sequence) and any(isinstance(token, str) for token in given):
        given = [_named(token, name, tokenizer) for token in given]
    ids = check_token_ids(given, name, dims.vocab_size)
    return ids[1:] if ids[:1] == [dims.decoder_start_token_id] else ids


def _named(token: object, name: str, tokenizer: Tokenizer) -> int:
    """The id of a token by its name."""
    token_id = tokenizer.token_id(token) if isinstance(token, str) else None
    if token_id is None:
        raise ValueError(f"{name}: expected names of tokens in the vocabulary, found {token!r}")
    return token_id
