"""Lets the attacks import tiny_bundle from the folder above."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))
