"""Attacks by damage, and by what stands where a bundle or a file of it should."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

from hostile import ATTACKS, BUNDLE, MANIFEST, VALID, WEIGHTS, Attack, add_folder, flip, write_folder

# Every file, damaged in every way.
for victim, valid in VALID.items():
    add_folder(f"missing {victim}", victim, {victim: None})
    add_folder(f"longer {victim}", victim, {victim: valid + b"\n"})
    if valid:
        add_folder(f"emptied {victim}", victim, {victim: b""})
        add_folder(f"shorter {victim}", victim, {victim: valid[:-1]})
        last = len(valid) * 8 - 1
        for bit in (0, last // 2, last):
            add_folder(f"bit {bit} of {victim} flipped", victim, {victim: flip(valid, bit)})
add_folder("two files exchanged", WEIGHTS, {"encoder.onnx": VALID[WEIGHTS], WEIGHTS: VALID["encoder.onnx"]})
add_folder("an empty directory", MANIFEST, dict.fromkeys(VALID))


def make_socket(path: Path) -> None:
    """Binds a socket there and leaves it."""
    before = Path.cwd()
    os.chdir(path.parent)  # an address has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)


def add_bundle(name: str, make: Callable[[Path], object]) -> None:
    """An attack by what `make` puts in the place of the bundle."""

    def build(folder: Path) -> Path:
        make(folder / "tiny.es2s")
        return folder / "tiny.es2s"

    ATTACKS[f"{name} in place of the bundle"] = Attack(build, BUNDLE)


add_bundle("nothing", lambda path: None)
add_bundle("a FIFO", os.mkfifo)
add_bundle("a socket", make_socket)
add_bundle("a link to itself", lambda path: path.symlink_to(path.name))
add_bundle("a dangling link", lambda path: path.symlink_to("nowhere"))
for device in ("/dev/null", "/dev/zero", "/dev/full"):
    ATTACKS[f"the bundle {device}"] = Attack(lambda _, device=device: Path(device), BUNDLE)


def add_in_place(name: str, make: Callable[[Path], object]) -> None:
    """Attacks by what `make` puts in the place of a listed file, and of the manifest; those move one up."""
    for victim in ("encoder.onnx", MANIFEST):

        def build(folder: Path, victim: str = victim) -> Path:
            path = write_folder(folder, VALID)
            (path / victim).rename(folder / victim)
            make(path / victim)
            return path

        ATTACKS[f"{name} in place of {victim}"] = Attack(build, victim)


add_in_place("a relative link to the right bytes", lambda path: path.symlink_to(f"../{path.name}"))
add_in_place(
    "an absolute link to the right bytes", lambda path: path.symlink_to(path.parent.parent / path.name)
)
add_in_place("a link to a file of the bundle", lambda path: path.symlink_to("LICENSE"))
add_in_place("a dangling link", lambda path: path.symlink_to("nowhere"))
add_in_place("a link to itself", lambda path: path.symlink_to(path.name))
add_in_place("a link to /dev/zero", lambda path: path.symlink_to("/dev/zero"))
add_in_place("a directory", lambda path: path.mkdir())
add_in_place("a FIFO", os.mkfifo)
add_in_place("a socket", make_socket)
