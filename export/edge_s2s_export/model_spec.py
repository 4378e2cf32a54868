"""What a model family tells the exporter: features and sizes, tensors under our names, and the encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edge_s2s.manifest import GenerationDefaults


class EncoderWithCrossKV(nn.Module):
    """What runs once per source: the encoder, and K and V of every decoder layer's cross-attention.

    `inputs_embeds` float32 [batch, sequence, d_model], rows of the embedding as they are stored ->
    `cross_kv` float32 [batch, n_layers, 2 (K, V), n_heads, sequence, d_head] and
    `mean_hidden` float32 [batch, d_model].
    There is no mask: each source runs at its exact length.
    """

    def __init__(
        self,
        encoder: Any,
        projections: Sequence[tuple[nn.Linear, nn.Linear]],
        *,
        n_heads: int,
        d_head: int,
        embedding_scale: float = 1.0,
    ):
        super().__init__()
        self.config = encoder.config
        self.encoder = encoder
        self.projections = nn.ModuleList(projection for layer in projections for projection in layer)
        self.n_layers, self.n_heads, self.d_head = len(projections), n_heads, d_head
        self.embedding_scale = embedding_scale

    def forward(self, inputs_embeds: Tensor) -> dict[str, Tensor]:
        """The graph; the order of the dict is the order of its outputs."""
        if self.embedding_scale != 1.0:  # no encoder of transformers scales what it is given
            inputs_embeds = inputs_embeds * self.embedding_scale
        hidden = self.encoder(
            inputs_embeds=inputs_embeds, attention_mask=None, return_dict=True
        ).last_hidden_state
        batch, sequence = inputs_embeds.shape[:2]
        heads = [
            projection(hidden).view(batch, sequence, self.n_heads, self.d_head).transpose(1, 2)
            for projection in self.projections
        ]  # 2 * n_layers of [batch, n_heads, sequence, d_head]: layer 0 K, layer 0 V, layer 1 K, ...
        cross_kv = torch.stack(heads, dim=1).view(
            batch, self.n_layers, 2, self.n_heads, sequence, self.d_head
        )
        return {"cross_kv": cross_kv, "mean_hidden": hidden.mean(dim=1)}


@dataclass(frozen=True)
class ModelSpec:
    """A model in the words of the runtime: features, not families."""

    keys: Mapping[str, int | float | str]
    """Every key of `decoder.weights` (see `edge_s2s.weights`): float32, no head rescoring, no prefix."""
    tensors: Mapping[str, np.ndarray]
    """float32, exactly the set that `keys` asks for."""
    encoder: EncoderWithCrossKV
    """Refers to the model's own modules; nothing is copied."""
    encoder_keys: Mapping[str, int | float | str]
    """Every key of `encoder.weights` (see `edge_s2s.encoder_weights`): float32."""
    encoder_tensors: Mapping[str, np.ndarray]
    """float32, exactly the set that `encoder_keys` asks for."""
    decoder_layers: Sequence[nn.Module]
    """The model's decoder layers; the first output of each is the residual stream."""
    n_encoder_layers: int
    generation: GenerationDefaults
    """All of them; `keys` holds those that are single numbers."""

    @property
    def source_vocab_size(self) -> int:
        """How many tokens a source can be made of."""
        return int(self.keys.get("source_vocab_size", self.keys["vocab_size"]))

    def cross_kv(self, input_ids: Sequence[int]) -> np.ndarray:
        """K and V of a source by torch alone, float32 [n_layers, 2, n_heads, source_len, d_head]."""
        table = self.encoder.encoder.embed_tokens.weight  # the model's, not ours, which may be wrong
        return self.cross_kv_of_embeds(table[list(input_ids)].detach().float().numpy())

    def cross_kv_of_embeds(self, inputs_embeds: np.ndarray) -> np.ndarray:
        """The same of rows of an embedding, float32 [source_len, d_model]."""
        with torch.no_grad():
            cross_kv: Tensor = self.encoder(torch.from_numpy(inputs_embeds)[None])["cross_kv"]
        return cross_kv[0].numpy()
