"""Encoder-decoder Transformers on the device: summarization, translation, correction, data-to-text.

import edge_s2s
model = edge_s2s.load()
print(model.summarize(document).text)
"""

from edge_s2s.constrained import AllowedSequences, Constraint
from edge_s2s.errors import (
    BundleError,
    CloudError,
    ConstraintError,
    CoreError,
    EdgeS2SError,
    InputTooLongError,
    InsufficientMemoryError,
    ProviderError,
    UnsupportedVersionError,
)
from edge_s2s.generation import Generation, GenerationOptions, GenerationStats, Provenance, Replacement
from edge_s2s.loading import default_bundle_path, load
from edge_s2s.manifest import RUNTIME_VERSION
from edge_s2s.model import Seq2SeqModel
from edge_s2s.scoring import Alternative, Score

__version__ = RUNTIME_VERSION
__all__ = [
    "AllowedSequences",
    "Alternative",
    "BundleError",
    "CloudError",
    "Constraint",
    "ConstraintError",
    "CoreError",
    "EdgeS2SError",
    "Generation",
    "GenerationOptions",
    "GenerationStats",
    "InputTooLongError",
    "InsufficientMemoryError",
    "Provenance",
    "ProviderError",
    "Replacement",
    "Score",
    "Seq2SeqModel",
    "UnsupportedVersionError",
    "__version__",
    "default_bundle_path",
    "load",
]
