"""Straight-line BPF code with few loads and stores: registers by Belady's rule.

LLVM's allocator spills what the next step of a hash is about to use. There is no branch inside a piece of such code, so
the best victim is known: the value whose next use is farthest away. Build time alone needs this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

REGISTERS = range(10)  # r10 is the frame pointer
_NEVER = 1 << 30
_CLEAN_BONUS = 6
"""How many instructions nearer the next use of a value may be if it need not be stored: by trying."""


class Op(NamedTuple):
    """One instruction over named values. `text` has {d} and {s}, which stand for the numbers of their registers.

    `reads_d` says whether the old value of `d` counts. Without a `text` it is a copy of 32 bits, which costs nothing
    where `s` is not needed any more.
    """

    text: str
    d: str
    s: str = ""
    reads_d: bool = True


class Home(NamedTuple):
    """Where a value is while it has no register: bytes from the frame pointer, and how wide it is."""

    at: int
    bits: int = 32


class StraightLine:
    """Allocates registers for `ops`. Every value starts in its home; those of `kept` are there again at the end."""

    def __init__(self, ops: Sequence[Op], homes: dict[str, Home], kept: Sequence[str] = ()) -> None:
        self._ops, self._homes, self._kept = ops, homes, kept
        self._stored = set(homes)  # whose home holds the value of now
        self._registers: dict[str, int] = {}
        self._uses = self._use_lists()
        self._text: list[str] = []

    def instructions(self) -> list[str]:
        """Return the instructions in LLVM's syntax. KeyError: a value that has to be put away has no home."""
        for i, op in enumerate(self._ops):
            self._place(i, op)
        for name in self._kept:
            self._store(name)
        return self._text

    def _use_lists(self) -> dict[str, list[tuple[int, bool]]]:
        """Return for every value its (number of the op, whether it is read there), the last first."""
        found: dict[str, list[tuple[int, bool]]] = {}
        for i, op in enumerate(self._ops):
            if op.s:
                found.setdefault(op.s, []).append((i, True))
            if op.d != op.s:
                found.setdefault(op.d, []).append((i, op.reads_d))
        for name in self._kept:
            found.setdefault(name, []).append((len(self._ops), True))
        return {name: uses[::-1] for name, uses in found.items()}

    def _next_read(self, name: str, after: int) -> int:
        """Return the number of the op that reads this value next; _NEVER if it is written first, or not used."""
        uses = self._uses[name]
        while uses and uses[-1][0] <= after:
            uses.pop()
        return uses[-1][0] if uses and uses[-1][1] else _NEVER

    def _place(self, i: int, op: Op) -> None:
        held = {op.s, op.d}
        for name, is_read in ((op.s, bool(op.s)), (op.d, op.reads_d)):
            if is_read and name not in self._registers:
                self._fetch(name, i, held)
        source = self._registers.get(op.s, -1)
        self._forget_dead(i, op.d)
        if not op.text and op.s not in self._registers:
            self._registers[op.d] = source  # another name is all the copy that it takes
        else:
            if op.d not in self._registers:
                self._registers[op.d] = self._free_register(i, held)
            self._text.append((op.text or "w{d} = w{s}").format(d=self._registers[op.d], s=source))
        self._stored.discard(op.d)

    def _forget_dead(self, i: int, written: str) -> None:
        for name in list(self._registers):
            if name != written and self._next_read(name, i) == _NEVER:
                del self._registers[name]

    def _fetch(self, name: str, i: int, held: set[str]) -> None:
        home, number = self._homes[name], self._free_register(i - 1, held)
        self._registers[name] = number
        self._text.append(f"r{number} = *(u{home.bits} *)(r10 - {-home.at})")

    def _free_register(self, i: int, held: set[str]) -> int:
        free = set(REGISTERS) - set(self._registers.values())
        if free:
            return min(free)
        victim = max((name for name in self._registers if name not in held), key=lambda name: self._worth(name, i))
        self._store(victim)
        return self._registers.pop(victim)

    def _worth(self, name: str, i: int) -> int:
        return self._next_read(name, i) + (_CLEAN_BONUS if name in self._stored else 0)

    def _store(self, name: str) -> None:
        if name not in self._stored:
            home = self._homes[name]
            self._text.append(f"*(u{home.bits} *)(r10 - {-home.at}) = r{self._registers[name]}")
            self._stored.add(name)
