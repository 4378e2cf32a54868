"""Smoothing changes no result and makes activations easier to quantize."""

import copy

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

from edge_s2s_export.smooth_quant import smooth

KINDS = {
    "gated": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": True},
    "relu": {"feed_forward_proj": "relu", "tie_word_embeddings": True},
    "untied": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}


def random_model(kind: str):
    """With a few loud channels, as trained models have."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=90, d_model=48, d_kv=16, d_ff=64, num_heads=3, num_layers=3, num_decoder_layers=2,
        decoder_start_token_id=0, dropout_rate=0.0, **KINDS[kind],
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval()
    for name, weight in model.named_parameters():
        if "layer_norm" in name:
            weight.data = torch.rand_like(weight) + 0.5
            weight.data[3] = 30.0
    return model


def logits(model, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    source, target = (torch.randint(2, 90, (4, n), generator=random) for n in (25, 12))
    with torch.no_grad():
        return model(input_ids=source, decoder_input_ids=target).logits


@pytest.mark.parametrize("kind", KINDS)
def test_results_stay_and_loud_channels_become_quiet(kind: str):
    model = random_model(kind)
    expected = logits(model, 5)
    before = copy.deepcopy(model.state_dict())
    gains = smooth(model, lambda: logits(model, 1))
    changed = [name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])]
    # Products of float32 in another order, each with a relative error of 6e-8.
    torch.testing.assert_close(logits(model, 5), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert all("shared" not in name and "decoder.final_layer_norm" not in name for name in changed)
    from_norms = [
        gain for name, gain in gains.items() if name.endswith(("attention", "cross", "ffn", "norm"))
    ]
    assert len(from_norms) == 3 * 2 + 2 * 3 + 1
    assert min(from_norms) > 1.5


def test_calibration_must_run_the_model():
    with pytest.raises(ValueError, match="never came to encoder"):
        smooth(random_model("gated"), lambda: None)


def test_another_family_is_refused():
    config = BartConfig(vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1)
    with pytest.raises(ValueError, match="expected a T5 model, found BartForConditionalGeneration"):
        smooth(BartForConditionalGeneration(config), lambda: None)
