"""CTranslate2's argument names, for those who come from its `translate_batch`.

    GenerationOptions(beam_size=4, max_decoding_length=64)

The tables below say which of our options each one is; of the others they say what to use.
"""

import functools
from collections.abc import Callable, Mapping
from typing import TypeVar

ALIASES = {
    "beam_size": "num_beams",
    "num_hypotheses": "num_return_sequences",
    "max_decoding_length": "max_new_tokens",
    "min_decoding_length": "min_new_tokens",
    "suppress_sequences": "bad_words_ids",  # token ids
    "sampling_topp": "top_p",
}
MEANINGS: dict[str, Callable[[object], dict[str, object]]] = {  # the later one wins, as there
    "sampling_topk": lambda k: {"do_sample": False} if k == 1 else {"do_sample": True, "top_k": k},
    "sampling_temperature": lambda t: {"do_sample": False} if t == 0 else {"temperature": t},
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
    "min_alternative_expansion_prob": "give generate each beginning that you want as decoder_input_ids",
    "patience": "use early_stopping",
    "prefix_bias_beta": "use sequence_bias",
    "replace_unknowns": "use suppress_tokens with the id of the unknown token",
    "return_alternatives": "use num_alternatives of score, or decoder_input_ids",
    "return_attention": "use output_attentions of score",
    "return_end_token": "token_ids always have it",
    "return_logits_vocab": "use logits_processor of generate, which sees them",
    "target_prefix": "it is an argument of generate, as decoder_input_ids is",
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
    ours = {name: value for name, value in arguments.items() if name not in ALIASES | MEANINGS}
    for name, value in ours.items():
        if name in INSTEAD:
            raise TypeError(f"{name}: CTranslate2's option has no equal here; {INSTEAD[name]}")
        if name not in ALWAYS and value is not None:
            translated[name] = value
    for name in [*ALIASES, *MEANINGS]:
        if (value := arguments.get(name)) is None:
            continue
        meaning = MEANINGS[name](value) if name in MEANINGS else {ALIASES[name]: value}
        for option in meaning:
            if ours.get(option) is not None:
                raise TypeError(f"{name} and {option} are one option; give {option}")
        translated |= meaning
    return translated
