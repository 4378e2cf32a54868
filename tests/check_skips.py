"""Fail if pytest skipped a test for a reason that is not allowed.

    python check_skips.py PYTEST_OUTPUT ALLOWED_SKIPS

PYTEST_OUTPUT is what `pytest -ra` printed. ALLOWED_SKIPS has one regular expression a line, matched from
the start of `file` against the lines `SKIPPED [n] file:line: reason`; `#` begins a comment.
"""

import re
import sys
from pathlib import Path


def unexpected_skips(output: str, allowed: str) -> list[str]:
    """Lines of `output` that report a skip which no pattern of `allowed` matches."""
    patterns = [line.split("#")[0].strip() for line in allowed.splitlines()]
    skips = re.findall(r"^SKIPPED \[\d+\] (.*)$", output, flags=re.MULTILINE)
    return [skip for skip in skips if not any(re.match(p, skip) for p in patterns if p)]


def main() -> int:
    output, allowed = (Path(argument).read_text(encoding="utf-8") for argument in sys.argv[1:3])
    unexpected = unexpected_skips(output, allowed)
    for skip in unexpected:
        print(f"not an allowed skip: {skip}")
    print(f"{len(unexpected)} unexpected skips")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
