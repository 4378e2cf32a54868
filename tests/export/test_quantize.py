import numpy as np
import pytest

from edge_s2s_export.quantize import quantize_rows, quantize_tensors


def plain_loop(row: np.ndarray) -> tuple[np.ndarray, float]:
    """The same search, one row and one number at a time."""
    best = (np.inf, np.zeros(len(row)), 0.0)
    for percent in range(100, 79, -1):
        scale = np.float32(float(abs(row).max()) * (percent / 100) / 127)
        codes = [max(-127, min(127, round(float(x / scale)))) for x in row]  # Python rounds half to even
        error = sum((code * float(scale) - float(x)) ** 2 for code, x in zip(codes, row, strict=True))
        best = min(best, (error, codes, float(scale)), key=lambda candidate: candidate[0])
    return np.array(best[1]), best[2]


def random_weight(seed: int, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, shape).astype(np.float32)


def squared_error(weight: np.ndarray, codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.square(codes * scale[:, None].astype(np.float64) - weight).sum(axis=1)


def test_rows_equal_an_independent_loop():
    weight = random_weight(0, (20, 50))
    codes, scale = quantize_rows(weight)
    for i, row in enumerate(weight):
        expected_codes, expected_scale = plain_loop(row)
        # The grids differ in their last bit, so equal errors may be ranked differently: compare the errors.
        loop_error = np.square(expected_codes * expected_scale - row).sum()
        assert squared_error(row[None], codes[i : i + 1], scale[i : i + 1])[0] == pytest.approx(
            loop_error, rel=1e-5
        )


def test_error_is_never_worse_than_without_clipping_and_sometimes_better():
    weight = np.random.default_rng(1).normal(size=(300, 768)).astype(np.float32)
    scale = np.abs(weight).max(axis=1) / np.float32(127)
    unclipped = squared_error(weight, np.rint(weight / scale[:, None]), scale)
    clipped = squared_error(weight, *quantize_rows(weight))
    assert (clipped <= unclipped * (1 + 1e-9)).all()
    assert (clipped < unclipped * 0.99).mean() > 0.1


@pytest.mark.parametrize("n_rows", [1, 1023, 1024, 1025, 2500])
def test_blocks_do_not_change_a_row(n_rows: int):
    weight = random_weight(2, (n_rows, 5))
    codes, scale = quantize_rows(weight)
    assert codes.shape == weight.shape
    for i in {0, n_rows // 2, n_rows - 1}:
        alone_codes, alone_scale = quantize_rows(weight[i : i + 1])
        np.testing.assert_array_equal(codes[i], alone_codes[0])
        assert scale[i] == alone_scale[0]


def test_codes_stay_within_127():
    codes, scale = quantize_rows(np.float32([[-1, 1, 0.5], [1e30, -1e30, 1], [3, 3, 3]]))
    assert codes.dtype == np.int8
    assert scale.dtype == np.float32
    assert codes.min() >= -127
    assert (scale > 0).all()


def test_zero_and_tiny_rows_give_zeros_not_nan():
    codes, scale = quantize_rows(np.float32([[0, 0, 0], [1e-45, 0, 0], [1, 2, 3]]))
    assert np.isfinite(scale).all()
    assert scale[0] == 0
    np.testing.assert_array_equal(codes[:2] * scale[:2, None], 0)
    assert codes[2].any()


def test_only_the_named_tensors_are_quantized():
    tensors = {"a.weight": random_weight(3, (4, 4)), "norm.weight": np.ones(4, np.float32)}
    quantized = quantize_tensors(tensors, {"a.weight"})
    assert quantized.keys() == {"a.weight", "a.weight_scale", "norm.weight"}
    assert quantized["a.weight"].dtype == np.int8
    assert quantized["norm.weight"] is tensors["norm.weight"]
