"""CTranslate2's argument names, for those who come from its `translate_batch`.

    GenerationOptions(beam_size=4, max_decoding_length=64)

The table below says which of our options each one is; of the others it says what to use.
"""

import functools
from collections.abc import Mapping
from typing import TypeVar

ALIASES = {
    "beam_size": "num_beams",
    "num_hypotheses": "num_return_sequences",
    "max_decoding_length": "max_new_tokens",
    "min_decoding_length": "min_new_tokens",
    "suppress_sequences": "bad_words_ids",  # token ids
}
ALWAYS = frozenset({"return_scores"})  # what a Generation has anyway
INSTEAD = {
    "asynchronous": "call generate in a thread",
    "batch_type": "batch_size of generate counts texts",
    "callback": "read stream",
    "coverage_penalty": "use encoder_repetition_penalty or length_penalty",
    "disable_unk": "use suppress_tokens with the id of the unknown token",
    "end_token": "the bundle names it",
    "max_batch_size": "use batch_size of generate",
    "max_input_length": "use truncation of generate, which cuts at the model's limit",
    "patience": "use early_stopping",
    "prefix_bias_beta": "use sequence_bias",
    "replace_unknowns": "use suppress_tokens with the id of the unknown token",
    "return_end_token": "token_ids always have it",
    "use_vmap": "use suppress_tokens",
}

Options = TypeVar("Options")


def accept_ctranslate2_names(options: type[Options]) -> type[Options]:
    """Class decorator: the constructor takes CTranslate2's names, too.

    Giving both names of an option, or a name that has no equal, is a TypeError that says what to use.
    """
    init = options.__init__

    @functools.wraps(init)
    def init_with_aliases(self: Options, **arguments: object) -> None:
        init(self, **_translate(arguments))

    options.__init__ = init_with_aliases  # type: ignore[assignment, method-assign]
    return options


def _translate(arguments: Mapping[str, object]) -> dict[str, object]:
    translated: dict[str, object] = {}
    for name, value in arguments.items():
        if name in INSTEAD:
            raise TypeError(f"{name}: CTranslate2's option has no equal here; {INSTEAD[name]}")
        if name in ALWAYS:
            continue
        ours = ALIASES.get(name, name)
        if ours != name and arguments.get(ours) is not None:
            raise TypeError(f"{name} and {ours} are one option; give {ours}")
        if value is not None:
            translated[ours] = value
    return translated
