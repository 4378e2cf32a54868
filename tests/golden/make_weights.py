"""Regenerates tiny.weights beside this file:  PYTHONPATH=tests python tests/golden/make_weights.py"""

from pathlib import Path

from edge_s2s.weights import write_weights
from tiny_bundle import tiny_keys, tiny_tensors

if __name__ == "__main__":
    keys = tiny_keys()
    Path(__file__).with_name("tiny.weights").write_bytes(write_weights(keys, tiny_tensors(keys)))
