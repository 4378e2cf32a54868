"""Checks against transformers before a bundle is written. A failed one raises, and nothing is written.

`check_float` asks whether the conversion is right: float32 graph and weights, run by the runtime, must give
what transformers gives, up to rounding. `check_int8` asks what quantization costs.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from edge_s2s.decoder import DecoderModel, Floats

from .candidate import Candidate
from .errors import GateError
from .model_spec import ModelSpec
from .reference_decoder import ReferenceDecoder

ENCODER_LENGTHS = (1, 2, 7, 130, 700)  # of random token ids

# Largest difference / largest magnitude. Rounding gives 1e-6 to 1e-5, a wrong weight or order 1e-2 and more.
MAX_FLOAT_ERROR = 1e-4
# Cosine of each token's K and V: int8 with a scale per token gives 0.9998, one scale per tensor 0.998.
MIN_MEAN_COSINE = 0.999
MIN_LOW_COSINE = 0.99  # first percentile over tokens
# Of the next-token distribution, in nats: what a reader cannot notice; the default model has 0.002 and 0.009.
MAX_MEAN_KL = 0.01
MAX_HIGH_KL = 0.1  # 99th percentile
# int8 may turn nearly tied tokens round. The default model has a margin below 0.1 in 6 % of its steps.
MIN_AGREEMENT = 0.95
# Of tokens in free running, where one flip changes the rest of a text. In float32 only a tie may flip, in one
# text of twenty at most; int8 flips more, and has 0.77 with the default model.
MIN_FLOAT_GREEDY = 0.95
MIN_INT8_GREEDY = 0.6

# A KV cache in float16 against one in float32: a tenth of what int8 may cost. The default model has 0.0002
# nats and the same best tokens; with float32 weights 3e-8: the rest is int8 codes that moved by one.
MAX_KV_CACHE_KL = 0.001
MIN_KV_CACHE_AGREEMENT = 0.985

# A static encoder against the bundle's own one, which is int8 itself: scales are for tensors, not for tokens.
MIN_STATIC_MEAN_COSINE = 0.998
MIN_STATIC_LOW_COSINE = 0.99
MIN_STATIC_AGREEMENT = 0.95

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Reference:
    """What transformers in float32 does with one text."""

    text: str
    input_ids: list[int]
    token_ids: list[int]  # greedy with the bundle's defaults, EOS included
    decoder_ids: list[int]  # start token and token_ids without the last: teacher forcing
    logits: Floats  # [len(decoder_ids), vocab_size]
    cross_kv: Floats  # [n_layers, 2, n_heads, source_len, d_head]


@torch.no_grad()
def run_transformers(model: Any, tokenizer: Any, spec: ModelSpec, texts: Sequence[str]) -> list[Reference]:
    """The reference for each text; `texts` come with their prefix."""
    sources = [torch.tensor(tokenizer(text)["input_ids"]) for text in texts]
    generated = model.generate(
        pad_sequence(sources, batch_first=True),
        attention_mask=pad_sequence([torch.ones_like(source) for source in sources], batch_first=True),
        num_beams=1,
        num_return_sequences=1,
        num_beam_groups=1,
        diversity_penalty=0.0,
        do_sample=False,
        max_new_tokens=spec.generation.max_new_tokens,
    )
    references = []
    for text, source, tokens in zip(texts, sources, generated.tolist(), strict=True):
        start, token_ids = tokens[0], tokens[1:]
        if (eos := int(spec.keys["eos_token_id"])) in token_ids:
            del token_ids[token_ids.index(eos) + 1 :]  # padding
        decoder_ids = [start, *token_ids[:-1]]
        logits = (
            model(input_ids=source[None], decoder_input_ids=torch.tensor([decoder_ids])).logits[0].numpy()
        )
        cross_kv = spec.cross_kv(source.tolist())
        references.append(Reference(text, source.tolist(), token_ids, decoder_ids, logits, cross_kv))
    return references


def check_float(
    candidate: Candidate, model: Any, spec: ModelSpec, references: Sequence[Reference]
) -> Metrics:
    """Gates of the conversion. `candidate` has float32 weights and a float32 encoder."""
    return {
        **_check_tokenizer(candidate, references),
        **_check_float_encoder(candidate, spec),
        **_check_float_decoder(candidate, model, spec, references),
        **_check_greedy(candidate, [r.cross_kv for r in references], references, "float", MIN_FLOAT_GREEDY),
    }


def check_int8(candidate: Candidate, references: Sequence[Reference]) -> Metrics:
    """Gates of quantization. `candidate` is the int8 bundle to be."""
    cross_kvs = [candidate.encode(reference.input_ids) for reference in references]
    return {
        **_check_int8_encoder(cross_kvs, references),
        **_check_int8_logits(candidate, cross_kvs, references),
        **_check_greedy(candidate, cross_kvs, references, "int8", MIN_INT8_GREEDY),
    }


def check_kv_cache(candidate: Candidate, wide: Candidate, references: Sequence[Reference]) -> Metrics:
    """The gate of a KV cache in float16: `wide` is the same bundle with one in float32."""
    agreement, divergence = [], []
    for reference in references:
        cross_kv = wide.encode(reference.input_ids)
        expected, found = (c.logits(cross_kv, reference.decoder_ids) for c in (wide, candidate))
        agreement.append(found.argmax(axis=1) == expected.argmax(axis=1))
        divergence.append(kl_divergence(expected, found))
    agreed, kl = float(np.concatenate(agreement).mean()), float(np.concatenate(divergence).mean())
    if not (agreed >= MIN_KV_CACHE_AGREEMENT and kl <= MAX_KV_CACHE_KL):
        raise GateError(
            f"kv_cache: with float16 the best token is the same in {agreed:.2%} of the steps (limit "
            f"{MIN_KV_CACHE_AGREEMENT:.1%}), mean KL {kl:.2g} (limit {MAX_KV_CACHE_KL:g})"
        )
    return {"float16_kv_cache_argmax_agreement": agreed, "float16_kv_cache_kl_mean": kl}


def check_static_float(
    candidate: Candidate,
    encode: Callable[[Floats], Floats],
    spec: ModelSpec,
    sources: Sequence[Sequence[int]],
    name: str,
) -> Metrics:
    """The gate of a static graph before it is quantized: what transformers gives, whatever the padding."""
    worst = 0.0
    for input_ids in sources:
        embeds = candidate.embed(input_ids)
        error = _relative_error(encode(embeds), spec.cross_kv_of_embeds(embeds))
        worst = max(worst, error)
        if not error <= MAX_FLOAT_ERROR:
            raise GateError(
                f"{name}: cross-attention K and V differ from transformers by {error:.2g} of the largest "
                f"value, limit {MAX_FLOAT_ERROR:g}, for {len(input_ids)} tokens"
            )
    return {f"{name}_float_error": worst}


def check_static(
    candidate: Candidate,
    encode: Callable[[Floats], Floats],
    sources: Sequence[Sequence[int]],
    name: str,
) -> Metrics:
    """The gate of a static encoder: what the bundle's own encoder gives, and what the decoder makes of it."""
    cosines, agreement = [], []
    start = candidate.manifest.special_tokens.decoder_start
    for input_ids in sources:
        expected, found = candidate.encode(input_ids), encode(candidate.embed(input_ids))
        for layer, kind in np.ndindex(found.shape[:2]):
            cosines.append(_cosine(found[layer, kind], expected[layer, kind]))
        decoder_ids = [start, *candidate.greedy(expected)[:-1]]
        best = [candidate.logits(cross_kv, decoder_ids).argmax(axis=1) for cross_kv in (expected, found)]
        agreement.append(best[0] == best[1])
    every = np.concatenate(cosines)
    mean, low = float(every.mean()), float(np.percentile(every, 1))
    agreed = float(np.concatenate(agreement).mean())
    if not (
        mean >= MIN_STATIC_MEAN_COSINE and low >= MIN_STATIC_LOW_COSINE and agreed >= MIN_STATIC_AGREEMENT
    ):
        raise GateError(
            f"{name}: cross-attention K and V have cosine {mean:.5f} with the bundle's encoder "
            f"(1st percentile {low:.5f}), limits {MIN_STATIC_MEAN_COSINE} and {MIN_STATIC_LOW_COSINE}; the "
            f"best token agrees in {agreed:.1%} of the steps, limit {MIN_STATIC_AGREEMENT:.0%}"
        )
    return {f"{name}_cosine_mean": mean, f"{name}_cosine_p1": low, f"{name}_argmax_agreement": agreed}


def _check_tokenizer(candidate: Candidate, references: Sequence[Reference]) -> Metrics:
    prefix = candidate.manifest.prefix
    for reference in references:
        found = candidate.tokenizer.encode(reference.text.removeprefix(prefix))
        if found != reference.input_ids:
            raise GateError(f"tokenizer: {reference.text!r} became {found}, expected {reference.input_ids}")
    return {}


def check_table(candidate: Candidate, table: bytes, texts: Sequence[str]) -> None:
    """The gate of `tokenizer.table`: the C core reads and writes texts as the runtime's tokenizer does."""
    core = DecoderModel(candidate.weights_file, tokenizer=table)
    for text in texts:
        expected, found = candidate.tokenizer.encode(text), core.tokenize(text)
        if found != expected:
            raise GateError(f"tokenizer.table: {text!r} became {found}, expected {expected}")
        if (written := core.detokenize(found)) != candidate.tokenizer.decode(found):
            raise GateError(f"tokenizer.table: {found} became {written!r}")


def _check_float_encoder(candidate: Candidate, spec: ModelSpec) -> Metrics:
    worst = 0.0
    for length in sorted({min(length, int(spec.keys["max_source_len"])) for length in ENCODER_LENGTHS}):
        input_ids = np.random.default_rng(length).integers(0, spec.source_vocab_size, length).tolist()
        expected = spec.cross_kv(input_ids)
        found = candidate.encode(input_ids)
        for layer, kind in np.ndindex(found.shape[:2]):
            error = _relative_error(found[layer, kind], expected[layer, kind])
            worst = max(worst, error)
            if not error <= MAX_FLOAT_ERROR:
                raise GateError(
                    f"encoder: cross-attention {'KV'[kind]} of decoder layer {layer} differs from "
                    f"transformers by {error:.2g} of its largest value, limit {MAX_FLOAT_ERROR:g}, "
                    f"for {length} tokens"
                )
    return {"float_cross_kv_error": worst}


def _check_float_decoder(
    candidate: Candidate, model: Any, spec: ModelSpec, references: Sequence[Reference]
) -> Metrics:
    worst = 0.0
    for reference in references:
        found = candidate.logits(reference.cross_kv, reference.decoder_ids)
        error = _relative_error(found, reference.logits)
        worst = max(worst, error)
        if not error <= MAX_FLOAT_ERROR:
            where = _first_difference(candidate, model, spec, reference)
            raise GateError(
                f"{where}: logits differ from transformers by {error:.2g} of the largest, "
                f"limit {MAX_FLOAT_ERROR:g}, for {reference.text[:60]!r}"
            )
    return {"float_logits_error": worst}


def _check_int8_encoder(cross_kvs: Sequence[Floats], references: Sequence[Reference]) -> Metrics:
    metrics = {"int8_cross_kv_cosine_mean": 1.0, "int8_cross_kv_cosine_p1": 1.0}
    for layer, kind in np.ndindex(cross_kvs[0].shape[:2]):
        cosines = np.concatenate(
            [
                _cosine(found[layer, kind], reference.cross_kv[layer, kind])
                for found, reference in zip(cross_kvs, references, strict=True)
            ]
        )
        mean, low = float(cosines.mean()), float(np.percentile(cosines, 1))
        if not (mean >= MIN_MEAN_COSINE and low >= MIN_LOW_COSINE):
            raise GateError(
                f"encoder: int8 cross-attention {'KV'[kind]} of decoder layer {layer} has cosine {mean:.5f} "
                f"with float32 (1st percentile {low:.5f}), limits {MIN_MEAN_COSINE} and {MIN_LOW_COSINE}"
            )
        metrics["int8_cross_kv_cosine_mean"] = min(metrics["int8_cross_kv_cosine_mean"], mean)
        metrics["int8_cross_kv_cosine_p1"] = min(metrics["int8_cross_kv_cosine_p1"], low)
    return metrics


def _check_int8_logits(
    candidate: Candidate, cross_kvs: Sequence[Floats], references: Sequence[Reference]
) -> Metrics:
    """Teacher forcing through the whole int8 pipeline, over what float32 generates."""
    agreement, divergence = [], []
    for cross_kv, reference in zip(cross_kvs, references, strict=True):
        logits = candidate.logits(cross_kv, reference.decoder_ids)
        agreement.append(logits.argmax(axis=1) == reference.logits.argmax(axis=1))
        divergence.append(kl_divergence(reference.logits, logits))
    agreed = float(np.concatenate(agreement).mean())
    kl = np.concatenate(divergence)
    mean, high = float(kl.mean()), float(np.percentile(kl, 99))
    if not (agreed >= MIN_AGREEMENT and mean <= MAX_MEAN_KL and high <= MAX_HIGH_KL):
        raise GateError(
            f"int8: the best token agrees in {agreed:.2%} of {len(kl)} steps (limit {MIN_AGREEMENT:.0%})"
            f", KL mean {mean:.4f} (limit {MAX_MEAN_KL}), 99th percentile {high:.4f} (limit {MAX_HIGH_KL})"
        )
    return {"int8_argmax_agreement": agreed, "int8_kl_mean": mean, "int8_kl_p99": high, "int8_steps": len(kl)}


def _check_greedy(
    candidate: Candidate,
    cross_kvs: Sequence[Floats],
    references: Sequence[Reference],
    dtype: str,
    limit: float,
) -> Metrics:
    ratios, identical = [], 0
    for cross_kv, reference in zip(cross_kvs, references, strict=True):
        found = candidate.greedy(cross_kv)
        ratios.append(difflib.SequenceMatcher(None, found, reference.token_ids, autojunk=False).ratio())
        identical += found == reference.token_ids
    mean = float(np.mean(ratios))
    if not mean >= limit:
        raise GateError(
            f"{dtype}: greedy search agrees with transformers in {mean:.1%} of the tokens, limit {limit:.0%}"
        )
    return {
        f"{dtype}_greedy_token_agreement": mean,
        f"{dtype}_greedy_identical": identical / len(references),
    }


def _first_difference(candidate: Candidate, model: Any, spec: ModelSpec, reference: Reference) -> str:
    """Names the part of the decoder whose output is the first to differ from transformers."""
    streams: list[Floats] = []

    def keep_input(_layer: Any, args: tuple[torch.Tensor, ...]) -> None:
        streams.append(args[0][0].numpy().copy())

    def keep_output(_layer: Any, _args: Any, output: tuple[torch.Tensor, ...]) -> None:
        streams.append(output[0][0].numpy().copy())

    handles = [spec.decoder_layers[0].register_forward_pre_hook(keep_input)]
    handles += [layer.register_forward_hook(keep_output) for layer in spec.decoder_layers]
    with torch.no_grad():
        model(
            input_ids=torch.tensor([reference.input_ids]),
            decoder_input_ids=torch.tensor([reference.decoder_ids]),
        )
    for handle in handles:
        handle.remove()
    decoder = ReferenceDecoder(candidate.weights, reference.cross_kv)
    logits = decoder.feed(reference.decoder_ids)
    names = ["decoder embedding", *(f"decoder layer {i}" for i in range(len(spec.decoder_layers)))]
    for name, found, expected in zip(names, decoder.hidden, streams, strict=False):
        if not _relative_error(found, expected) <= MAX_FLOAT_ERROR:
            return name
    if not _relative_error(logits, reference.logits) <= MAX_FLOAT_ERROR:
        return "final norm or output head"
    return "C core (the exported weights are right, by the reference decoder)"


def kl_divergence(expected: Floats, found: Floats) -> np.ndarray:
    """KL(expected || found) of the distributions behind logits [n, vocab_size], in nats, float64 [n]."""
    p, q = _log_softmax(expected), _log_softmax(found)
    divergence: np.ndarray = (np.exp(p) * (p - q)).sum(axis=1)
    return divergence


def _log_softmax(logits: Floats) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_probabilities: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_probabilities


def _relative_error(found: Floats, expected: Floats) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _cosine(found: Floats, expected: Floats) -> np.ndarray:
    """Twice [n_heads, source_len, d_head] -> cosine of each token's vector over all heads, [source_len]."""
    x, y = (a.swapaxes(0, 1).reshape(a.shape[1], -1).astype(np.float64) for a in (found, expected))
    cosine: np.ndarray = (x * y).sum(axis=1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
    return cosine
