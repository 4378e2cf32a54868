"""python -m edge_s2s: the same as the command edge-s2s."""

import sys

from edge_s2s.cli import main

sys.exit(main())
