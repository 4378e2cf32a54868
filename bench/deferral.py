"""How much better answers become when those that a number doubts come from the cloud instead.

An order is a number for each row, [n]; rows with low numbers are sent first. Qualities are [n], 0 to 100.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PERCENTS = tuple(range(0, 101, 5))
SENT = 20  # percent: where methods are compared
_N_RESAMPLES = 1000


def curve(order: Floats, local: Floats, cloud: Floats) -> Floats:
    """Mean quality with the lowest 0, 5, ..., 100 % of rows sent, [21]."""
    gains = (cloud - local)[np.argsort(order, kind="stable")]
    gained = np.concatenate([[0.0], np.cumsum(gains)])
    n_sent = [round(len(local) * percent / 100) for percent in PERCENTS]
    means: Floats = (local.sum() + gained[n_sent]) / len(local)
    return means


def random_line(local: Floats, cloud: Floats) -> Floats:
    """What `curve` is on average when chance sends, [21]."""
    line: Floats = local.mean() + np.array(PERCENTS) / 100 * (cloud - local).mean()
    return line


def share_of_oracle(order: Floats, local: Floats, cloud: Floats) -> float:
    """(order - random) / (oracle - random) with 20 % sent; the oracle sends where the cloud gains most."""
    place = PERCENTS.index(SENT)
    ours, best = (curve(given, local, cloud)[place] for given in (order, local - cloud))
    chance = random_line(local, cloud)[place]
    return float((ours - chance) / (best - chance)) if best > chance else float("nan")


def with_interval(measure: Callable[..., float], *columns: Floats) -> list[float]:
    """A measure of some columns [n], and where 95 % of its resamples of rows are."""
    draw = np.random.default_rng(0)
    n = len(columns[0])
    samples: list[float] = []
    for _ in range(_N_RESAMPLES):
        rows = draw.integers(0, n, n)
        samples.append(measure(*(column[rows] for column in columns)))
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return [measure(*columns), float(low), float(high)]


def plot(path: str, clouds: dict[str, dict[str, Sequence[float]]]) -> None:
    """The curves of each cloud, `{cloud: {method: curve}}`, as a picture."""
    import matplotlib as mpl  # of the extra `export`

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "edge_s2s", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    figure: Any
    figure, axes = plt.subplots(1, len(clouds), figsize=(5 * len(clouds), 4), squeeze=False)
    for axis, (cloud, curves) in zip(axes[0], clouds.items(), strict=True):
        for method, values in curves.items():
            style = {"oracle": ":", "random": "--"}.get(method, "-")
            axis.plot(PERCENTS, values, style, label=method)
        axis.axvline(SENT, color="lightgrey", zorder=0)
        axis.set(title=f"cloud: {cloud}", xlabel="answers of the cloud, %", ylabel="ROUGE-L")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
