"""Write the C source of the extension module `edge_s2s._core` from the public header.

python build_ffi.py HEADER OUTPUT
"""

import sys
from pathlib import Path

from cffi import FFI

BEGIN, END = "/* ---- cffi reads from here ---- */", "/* ---- cffi reads to here ---- */"
CALLBACK = """
extern "Python" int es2s_python_on_tokens(void *user, int32_t row, const int32_t *tokens, int32_t n);
extern "Python" int es2s_python_logits_processor(void *user, int32_t row, const int32_t *tokens, int32_t n,
                                                 float *scores, int32_t vocab_size);
"""


def main(header: Path, output: Path) -> None:
    """Hand the header's declarations to cffi."""
    text = header.read_text(encoding="utf-8")
    declarations = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    ffi = FFI()
    ffi.cdef(declarations + CALLBACK)
    ffi.set_source("edge_s2s._core", '#include "edge_s2s.h"')
    ffi.emit_c_code(str(output))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
