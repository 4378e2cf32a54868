"""What the compiler made of the C core: no wide instruction outside its kernel set, no FMA, no libm."""

import platform
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from c_builds import build, find_tool, run


@dataclass(frozen=True)
class Architecture:
    """Instructions as patterns of objdump's text, and the only files that may hold them."""

    build: str
    tools: str  # prefix of the binutils
    confined: dict[str, set[str]]
    fused: str  # multiply-adds with one rounding


ARCHITECTURES = [
    Architecture(
        "release",
        "",
        {
            r"%ymm|\tv[a-z]": {"avx2", "avx_vnni", "avx512_vnni"},
            r"vpdpbusd": {"avx_vnni", "avx512_vnni"},
            r"%zmm|%k[1-7]|\{%k": {"avx512_vnni"},
        },
        r"\tvf(n?m(add|sub)|maddsub|msubadd)",
    ),
    Architecture(
        "aarch64",
        "aarch64-linux-gnu-",
        {
            r"\t[su]dot\b": {"neon_dotprod", "neon_i8mm"},
            r"\t(smmla|ummla|usmmla)\b": {"neon_i8mm"},
            r"\tz\d|\b[zp]\d+\.[bhsd]": set(),
        },
        r"\tf(n?m(add|sub)|ml[as])\b",
    ),
    Architecture(
        "arm",
        "arm-linux-gnueabihf-",
        {r"\tv\S+\t.*\bq\d|\tvmull|\tvpadal|\tvpadd": {"neon"}, r"\tv\S+\.f32\t.*\bq\d": set()},
        r"\tvfn?m[as]",
    ),
]
LIBM_ALLOWED = {"sqrtf"}  # correctly rounded; a call only where the compiler has no instruction for it
LIBM = r"(sqrt|exp(2|m1)?|log(2|10|1p)?|pow|tanh|erf|sin|cos|fma|l?l?rint|round|floor|ceil|fmin|fmax)[fl]?"


def objects(architecture: Architecture) -> list[Path]:
    if architecture.build == "release" and platform.machine() != "x86_64":
        pytest.skip("the patterns are those of x86-64")
    folder = build(architecture.build, "es2s_objects")
    found = sorted((folder / "CMakeFiles" / "es2s_objects.dir").rglob("*.o"))
    assert len(found) >= 13
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.build)
def test_wide_instructions_stay_in_their_kernel_set_and_nothing_is_fused(architecture: Architecture):
    objdump = find_tool(architecture.tools + "objdump")
    seen = {pattern: set[str]() for pattern in architecture.confined}
    for path in objects(architecture):
        name = path.name.removesuffix(".c.o")
        code = run(objdump, "-d", "--no-show-raw-insn", path)
        assert not re.findall(rf".*{architecture.fused}.*", code), f"{name}: a fused multiply-add"
        for pattern in architecture.confined:
            if re.search(pattern, code):
                seen[pattern].add(name)
    # Equal, not a subset: a pattern that nothing matches would prove nothing.
    assert seen == architecture.confined


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.build)
def test_no_object_calls_libm(architecture: Architecture):
    nm = find_tool(architecture.tools + "nm")
    called = set(run(nm, "--undefined-only", "--format=just-symbols", *objects(architecture)).split())
    assert "memcpy" in called, "nm's output is not what this test reads"
    assert {name for name in called if re.fullmatch(LIBM, name)} <= LIBM_ALLOWED
