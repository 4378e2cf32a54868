"""Builds edge_s2s bundles from Hugging Face checkpoints. Command: `edge-s2s-export`."""
