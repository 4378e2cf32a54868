"""A bundle that is not written yet, run by the runtime's own parts."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edge_s2s.bundle import Bundle
from edge_s2s.decoder import DecoderModel, Floats
from edge_s2s.encoder import Encoder
from edge_s2s.manifest import FileEntry, GenerationDefaults, Manifest
from edge_s2s.tokenizer import open_tokenizers
from edge_s2s.weights import FILE as WEIGHTS
from edge_s2s.weights import read_weights

# As large a change of the embeddings as other CPUs make by rounding otherwise: margins of the default model
# then have a standard deviation of 0.083, of its answers on AArch64 0.079.
_LAST_PLACES = 2**-20


class Candidate:
    """Tokenizer, encoder and decoder of the bundle with this manifest and these files."""

    def __init__(self, manifest: Manifest, files: Mapping[str, bytes]):
        self.manifest = manifest
        self.weights_file = files[WEIGHTS]
        self.weights = read_weights(files[WEIGHTS])
        views = {name: memoryview(data) for name, data in files.items()}
        encoder = manifest.encoder()
        self._encoder: Encoder | None = None
        if encoder.kind == "onnx":
            self._encoder = Encoder(Bundle(Path(manifest.name), "directory", manifest, self.weights, views))
        native = files[encoder.file] if encoder.kind == "native" else None
        self._decoder = DecoderModel(files[WEIGHTS], encoder=native)
        listed = dict.fromkeys(files, FileEntry(0, ""))  # the manifest gets its files when it is written
        self.tokenizer, self.target_tokenizer = open_tokenizers(
            dataclasses.replace(manifest, files=listed),
            lambda name: files[name],
        )

    def encode(self, input_ids: Sequence[int], *, rounding: int = 0) -> Floats:
        """Cross-attention keys and values of a source, [n_layers, 2, n_heads, source_len, d_head].

        Each `rounding` but 0, which changes nothing, stands for another CPU: it moves the embeddings by units
        in the last place. The native encoder has the same bits on all of them, so there is nothing to move.
        """
        if self._encoder is None:
            with self._decoder.session(1, 1, len(input_ids), 1) as session:
                session.encode(0, input_ids)
                return session.source(0)
        embeds = self.embed(input_ids)
        if rounding:
            moves = np.random.default_rng(rounding).uniform(-_LAST_PLACES, _LAST_PLACES, embeds.shape)
            embeds = (embeds * (1 + moves)).astype(np.float32)
        return self._encoder.run(embeds).cross_kv

    def embed(self, input_ids: Sequence[int]) -> Floats:
        """Rows of the embedding as they are stored, [source_len, d_model]."""
        return self._decoder.embed(list(input_ids))

    def logits(self, cross_kv: Floats, decoder_ids: Sequence[int]) -> Floats:
        """Logits after each of `decoder_ids`, the start token first: teacher forcing, [n, vocab_size]."""
        with self._decoder.session(1, 1, cross_kv.shape[3], len(decoder_ids)) as session:
            session.set_source(0, cross_kv)
            return np.concatenate([session.step([token]) for token in decoder_ids])

    def greedy(self, cross_kv: Floats) -> list[int]:
        """Tokens with EOS that greedy search with the bundle's defaults generates."""
        defaults = self.manifest.generation
        with self._decoder.session(1, 1, cross_kv.shape[3], defaults.max_new_tokens) as session:
            session.set_source(0, cross_kv)
            return list(session.generate(greedy_search(defaults))[0][0].token_ids)

    def margins(self, cross_kv: Floats, token_ids: Sequence[int]) -> Floats:
        """How far each token's logit is above the best of the others; below 0 where it is not the best."""
        logits = self.logits(cross_kv, [self.manifest.special_tokens.decoder_start, *token_ids[:-1]])
        steps = np.arange(len(token_ids))
        own = logits[steps, token_ids]
        logits[steps, token_ids] = -np.inf
        margins: Floats = own - logits.max(axis=1)
        return margins


def greedy_search(defaults: GenerationDefaults) -> GenerationDefaults:
    """The same rules for greedy search, whatever the defaults search or draw by."""
    return dataclasses.replace(
        defaults,
        num_beams=1,
        num_return_sequences=1,
        num_beam_groups=1,
        diversity_penalty=0.0,
        do_sample=False,
    )
