"""New networks: T5 v1.1 whose first weights can already copy, and smaller ones cut from a teacher.

A small encoder-decoder that begins with random weights learns for tens of millions of tokens before it copies
one word from its source. Nothing in the architecture stands in the way, so `new_model` writes the circuit
that trained models arrive at (an induction head, https://arxiv.org/abs/2209.11895) into the first weights:

    encoder, layer 0     one head looks one position back, and notes there which token it saw,
                         in dimensions that embeddings leave free;
    decoder, last layer  cross-attention heads look for the position whose note is the present token,
                         and bring the token that stands there: the one that comes next in the source.

It is a start, not a rule: every weight is trained.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import T5Config, T5ForConditionalGeneration

D_KV = 64
MATCH = 12.0  # attention score of a position whose note matches, about; others are near 0
LOUD = 4.0  # what is copied, against the present token, which stands in the same dimensions
LOOK_BACK = 10.0  # attention bias of the position before, against 0 of the others


@dataclass(frozen=True)
class Network:
    """The size of a T5 v1.1: gated GELU, RMS norms, tied embeddings, heads of 64."""

    d_model: int = 256
    d_ff: int = 768
    num_heads: int = 4
    num_layers: int = 8  # of the encoder
    num_decoder_layers: int = 2


def new_model(
    network: Network, vocab_size: int, *, seed: int, copies: bool = True
) -> T5ForConditionalGeneration:
    """A model with random weights, in float32; ids 0 and 1 are padding (and start) and end.

    `copies` writes the circuit of the module's docstring into it.
    """
    config = T5Config(
        vocab_size=vocab_size,
        d_model=network.d_model,
        d_kv=D_KV,
        d_ff=network.d_ff,
        num_heads=network.num_heads,
        num_layers=network.num_layers,
        num_decoder_layers=network.num_decoder_layers,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=True,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config)
        _calm(model)
        if copies:
            _write_copy_circuit(model)
    return model


def shrink(teacher: Any, network: Network) -> T5ForConditionalGeneration:
    """A student of a teacher's width with some of its layers, evenly spread from first to last, or the
    last alone: a decoder's last layer is what copies (https://arxiv.org/abs/2010.13002).

    Raises ValueError if another size than the number of layers differs.
    """
    config = teacher.config
    sizes = {"d_model": config.d_model, "d_ff": config.d_ff, "num_heads": config.num_heads}
    for name, size in sizes.items():
        if getattr(network, name) != size:
            raise ValueError(
                f"{name}: expected the teacher's {size}, found {getattr(network, name)};"
                " a student that copies its teacher's layers has fewer of them, not narrower ones"
            )
    student = new_model(network, config.vocab_size, seed=0, copies=False)
    weights = teacher.state_dict()
    kept = {name: weight for name, weight in weights.items() if ".block." not in name}
    for stack, n_layers, n_of_teacher in (
        ("encoder", network.num_layers, config.num_layers),
        ("decoder", network.num_decoder_layers, config.num_decoder_layers),
    ):
        for layer, chosen in enumerate(_spread(n_layers, n_of_teacher)):
            beginning = f"{stack}.block.{chosen}."
            kept |= {
                f"{stack}.block.{layer}." + name.removeprefix(beginning): weight
                for name, weight in weights.items()
                if name.startswith(beginning)
            }
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        kept[bias] = weights[bias]  # of all layers, and stored in the first
    student.load_state_dict(kept)
    return student


def _spread(n: int, n_available: int) -> list[int]:
    if n > n_available:
        raise ValueError(f"expected at most the teacher's {n_available} layers, found {n}")
    if n == 1:
        return [n_available - 1]
    return [round(index * (n_available - 1) / (n - 1)) for index in range(n)]


def _calm(model: Any) -> None:
    """Scales what each layer adds, so that embeddings are still heard behind the last layer (as in GPT-2)."""
    for stack in (model.encoder, model.decoder):
        n_additions = sum(len(block.layer) for block in stack.block)
        for name, weight in stack.block.named_parameters():
            if name.endswith((".o.weight", ".wo.weight")):
                weight.data.mul_(n_additions**-0.5)


def _write_copy_circuit(model: Any) -> None:
    config = model.config
    n_free = D_KV  # dimensions for the note
    n_token = config.d_model - n_free  # dimensions of the embedding
    model.shared.weight.data[:, n_token:] = 0
    note_of = _orthonormal(D_KV, n_token)  # what a note says of a token

    looks_back = model.encoder.block[0].layer[0].SelfAttention
    head = slice(0, D_KV)
    # With its own bias for the distance of one, and no opinion about contents, a head looks one back.
    before = looks_back._relative_position_bucket(
        torch.tensor([[-1]]),
        bidirectional=True,
        num_buckets=config.relative_attention_num_buckets,
        max_distance=config.relative_attention_max_distance,
    ).item()
    looks_back.relative_attention_bias.weight.data[before, 0] = LOOK_BACK
    looks_back.q.weight.data[head] = 0
    looks_back.v.weight.data[head] = 0
    looks_back.v.weight.data[head, :n_token] = note_of
    looks_back.o.weight.data[:, head] = 0
    looks_back.o.weight.data[n_token:, head] = torch.eye(D_KV)

    copier = model.decoder.block[-1].layer[1].EncDecAttention
    n_heads = min(config.num_heads, -(-n_token // D_KV))
    carried = _orthonormal(n_token, n_token)[: n_heads * D_KV]  # what the heads bring together
    for index in range(n_heads):
        head = slice(index * D_KV, (index + 1) * D_KV)
        of_head = carried[head]
        for projection in (copier.q, copier.k, copier.v):
            projection.weight.data[head] = 0
        copier.o.weight.data[:, head] = 0
        copier.q.weight.data[head, :n_token] = note_of * MATCH / D_KV
        copier.k.weight.data[head, n_token:] = torch.eye(D_KV)
        copier.v.weight.data[head][: len(of_head), :n_token] = of_head
        copier.o.weight.data[:n_token, head][:, : len(of_head)] = of_head.T * LOUD


def _orthonormal(n_rows: int, n_columns: int) -> torch.Tensor:
    columns: torch.Tensor = torch.linalg.qr(torch.randn(n_columns, n_rows)).Q
    return columns.T
