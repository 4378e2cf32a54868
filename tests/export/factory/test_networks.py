"""New models can copy before they have learned anything; students have their teacher's layers."""

from typing import Any

import pytest
import torch

from edge_s2s_export.factory.networks import Network, new_model, shrink

VOCAB_SIZE = 500
NETWORK = Network(d_model=192, d_ff=256, num_heads=3, num_layers=3, num_decoder_layers=2)


def share_copied(model: Any) -> float:
    """Of a source's tokens, those that the model finds most likely while it is made to repeat the source."""
    source = torch.randint(3, VOCAB_SIZE, (8, 60), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(input_ids=source, labels=source).logits
    return (logits.argmax(-1) == source).float()[:, 1:].mean().item()  # the first one follows nothing


def test_a_new_model_repeats_its_source_without_training():
    assert share_copied(new_model(NETWORK, VOCAB_SIZE, seed=0).eval()) > 0.8
    assert share_copied(new_model(NETWORK, VOCAB_SIZE, seed=0, copies=False).eval()) < 0.05


def test_the_same_seed_gives_the_same_weights_and_leaves_torch_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (new_model(NETWORK, VOCAB_SIZE, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.rand(1) == expected
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["shared.weight"], other["shared.weight"])


def test_a_student_of_all_layers_is_its_teacher():
    teacher = new_model(NETWORK, VOCAB_SIZE, seed=3)
    student = shrink(teacher, NETWORK)
    weights = teacher.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in student.state_dict().items())


def test_a_student_has_the_first_and_the_last_layer_of_its_teacher():
    teacher = new_model(Network(192, 256, 3, num_layers=5, num_decoder_layers=4), VOCAB_SIZE, seed=3)
    student = shrink(teacher, Network(192, 256, 3, num_layers=3, num_decoder_layers=2))
    for stack, layers in (("encoder", (0, 2, 4)), ("decoder", (0, 3))):
        for block, chosen in zip(getattr(student, stack).block, layers, strict=True):
            expected = getattr(teacher, stack).block[chosen].layer[-1].DenseReluDense.wo.weight
            assert torch.equal(block.layer[-1].DenseReluDense.wo.weight, expected)


def test_a_student_of_one_decoder_layer_still_copies():
    teacher = new_model(NETWORK, VOCAB_SIZE, seed=0)
    student = shrink(teacher, Network(192, 256, 3, num_layers=3, num_decoder_layers=1)).eval()
    assert share_copied(student) > 0.8
    bias = "SelfAttention.relative_attention_bias.weight"
    of_both = [model.decoder.block[0].layer[0].get_parameter(bias) for model in (teacher, student)]
    assert torch.equal(*of_both)


def test_a_student_that_does_not_fit_is_refused():
    teacher = new_model(NETWORK, VOCAB_SIZE, seed=0)
    with pytest.raises(ValueError, match="d_model: expected the teacher's 192, found 256"):
        shrink(teacher, Network(d_model=256, d_ff=256, num_heads=3))
    with pytest.raises(ValueError, match="at most the teacher's 3 layers, found 8"):
        shrink(teacher, Network(d_model=192, d_ff=256, num_heads=3, num_layers=8))
