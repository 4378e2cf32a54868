"""Summarize a file with the default bundle, printing the summary as it is written.

python summarize.py dialogue.txt
"""

import sys
from pathlib import Path

import edge_s2s

document = Path(sys.argv[1]).read_text(encoding="utf-8")
with edge_s2s.load() as model:
    for piece in model.stream(document):
        print(piece, end="", flush=True)
    print()

    # All of generate()'s options have transformers' names and meanings.
    options = edge_s2s.GenerationOptions(num_beams=4, num_return_sequences=2, max_new_tokens=60)
    for candidate in model.generate([document], options)[0]:
        print(f"{candidate.score:7.3f}  {candidate.finish_reason:6}  {candidate.text}")
