"""Start-up and generation of edge_s2s beside named peers."""

import sys
from pathlib import Path

# `python -m bench` runs in the repository, where the folder edge_s2s/ would hide the installed package.
ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT] + [str(ROOT)]
