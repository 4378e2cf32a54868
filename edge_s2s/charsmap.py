"""SentencePiece's normalization: at every place of a text the longest rule of a table applies.

The table, a "precompiled charsmap", is a double-array trie (Aoe 1989, in the layout of Darts-clone) over the
UTF-8 bytes of what is replaced, and the replacements, each ended by a zero byte:

    uint32 size of the trie in bytes, uint32 units[], replacements

The tokenizers library looks rules up by grapheme and takes the shortest, which loses accents; hence our own.
"""

import re

MAX_REPLACEMENT = 18  # characters, as many as NFKC makes of U+FDFA
MAX_RULE = 64  # bytes of a text that a rule may look at; NFKC's longest has 12


class Charsmap:
    """A table of replacements; ValueError unless `data` is one."""

    def __init__(self, data: bytes) -> None:
        n_trie = int.from_bytes(data[:4], "little")
        if len(data) < 4 or n_trie > len(data) - 4 or n_trie % 4:
            raise ValueError(f"{len(data)} bytes, trie {n_trie}")
        self._units = memoryview(data)[4 : 4 + n_trie]
        self._replacements = data[4 + n_trie :]
        for text in self._replacements.split(b"\0"):
            if len(text) > MAX_REPLACEMENT and len(text.decode(errors="replace")) > MAX_REPLACEMENT:
                raise ValueError(f"a replacement of {len(text)} bytes")
        # ASCII characters that neither change nor begin a longer rule with another one of them
        plain = [byte for byte in range(0x20, 0x7F) if self._rule(bytes([byte]), 0) is None]
        inert = [
            byte
            for byte in plain
            if not self._begins_rules(byte) or all(self._rule(bytes([byte, b]), 0) is None for b in plain)
        ]
        inside = re.escape(bytes(inert)) if inert else b"\xff"  # which no UTF-8 has
        self._inert = re.compile(rb"[%b]+(?=[%b]|\Z)" % (inside, inside))

    def normalize(self, text: str) -> str:
        """The text with all replacements made, in one pass."""
        data = text.encode()
        parts: list[bytes] = []
        pos = 0
        while pos < len(data):
            if run := self._inert.match(data, pos):
                parts.append(run[0])
                pos = run.end()
            elif rule := self._rule(data, pos):
                end, replacement = rule
                parts.append(replacement)
                pos = end
            else:
                end = pos + _CHARACTER_LEN[data[pos] >> 4]
                parts.append(data[pos:end])
                pos = end
        return b"".join(parts).decode(errors="replace")

    def _rule(self, data: bytes, start: int) -> tuple[int, bytes] | None:
        """End and replacement of the longest rule that applies at `start`."""
        found: tuple[int, int] | None = None
        node = 0
        unit = self._unit(0)
        for pos in range(start, min(len(data), start + MAX_RULE)):
            node ^= _offset(unit) ^ data[pos]
            unit = self._unit(node)
            if unit & 0x8000_00FF != data[pos]:  # the label: no other node leads here
                break
            # A rule ends here, and a character: one for half a character could make long texts of short ones.
            if unit & 0x100 and data[pos + 1 : pos + 2] not in _INSIDE_A_CHARACTER:
                found = pos + 1, self._unit(node ^ _offset(unit)) & 0x7FFF_FFFF
        if found is None:
            return None
        end, at = found
        return end, self._replacements[at : self._replacements.find(b"\0", at)]

    def _begins_rules(self, byte: int) -> bool:
        """Whether a branch of the trie leaves its root with this byte."""
        return self._unit(_offset(self._unit(0)) ^ byte) & 0x8000_00FF == byte

    def _unit(self, node: int) -> int:
        """Beyond the trie there is a unit that nothing leads to."""
        return int.from_bytes(self._units[4 * node : 4 * node + 4], "little") or 0x8000_0000


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)


_INSIDE_A_CHARACTER = frozenset(bytes([byte]) for byte in range(0x80, 0xC0))
_CHARACTER_LEN = [1] * 12 + [2, 2, 3, 4]  # bytes, by the upper half of the first one
