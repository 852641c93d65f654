"""The block functions of SHA-256 and BLAKE2s as BPF code: the text of `bpf/hashes_gen.h`.

BPF has no rotate and ten registers. A 32-bit word times 2^32 + 1 is the word written twice into 64 bits, and the low
half of that shifted right by n is the word rotated right by n: two instructions, where shift, shift, or and a copy are
four. Both functions work on a copy of the block on their own stack, so that no register has to point to it. SHA-256 is
a loop of sixteen rounds: unrolled it would fill more than half of the instruction cache, which a packet finds cold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fabricbios.dataplane.keys import BLAKE2S_LANES, BLAKE2S_SIGMA, SHA256_INITIAL
from fabricbios.dataplane.straight_line import Home, Op, StraightLine
from fabricbios.dataplane.xdp_layout import BPF_DIR

HASHES_FILE = BPF_DIR / "hashes_gen.h"
_TWICE = (1 << 32) + 1
_BLOCK = -64
"""Nearest to the frame pointer, where x86 has short instructions; the hash states come next."""
_STATE = "abcdefgh"


def _alu(sign: str, d: str, s: str) -> Op:
    return Op(f"w{{d}} {sign}= w{{s}}", d, s)


def _shift(d: str, by: int, *, wide: bool = True) -> Op:
    return Op(f"{'r' if wide else 'w'}{{d}} >>= {by}", d)


def _copy(d: str, s: str) -> Op:
    return Op("", d, s, reads_d=False)


def _wide_copy(d: str, s: str) -> Op:
    return Op("r{d} = r{s}", d, s, reads_d=False)


def _word(d: str, i: int) -> Op:
    """Load a word of the block."""
    return Op(f"r{{d}} = *(u32 *)(r10 - {-(_BLOCK + 4 * i)})", d, reads_d=False)


def _at(d: str, pointer: str, i: int) -> Op:
    """Load the word number i that a pointer points to."""
    return Op(f"r{{d}} = *(u32 *)(r{{s}} + {4 * i})", d, pointer, reads_d=False)


def _put(s: str, pointer: str, i: int) -> Op:
    return Op(f"*(u32 *)(r{{s}} + {4 * i}) = r{{d}}", s, pointer)


def _to_frame(at: int, what: str) -> list[str]:
    """Compute into r0 and store it as a double word of the frame."""
    return [what, f"*(u64 *)(r10 - {-at}) = r0"]


def _words_to_frame(register: str, at: int, count: int) -> list[str]:
    """Copy an even number of words, two at a time."""
    text: list[str] = []
    for i in range(0, count, 2):
        text += [f"r0 = *(u64 *)({register} + {4 * i})", f"*(u64 *)(r10 - {-(at + 4 * i)}) = r0"]
    return text


def _swapped_to_frame(register: str, at: int, count: int) -> list[str]:
    text: list[str] = []
    for i in range(count):
        text += [f"r0 = *(u32 *)({register} + {4 * i})", "r0 = be32 r0", f"*(u32 *)(r10 - {-(at + 4 * i)}) = r0"]
    return text


def _rotated(x: str, by: int) -> list[Op]:
    return [Op("r{d} *= r{s}", x, "twice"), _shift(x, by)]


def _blake2s_mix(a: str, b: str, c: str, d: str, x: int, y: int) -> Iterator[Op]:
    """RFC 7693, 3.1."""
    for i, turn_d, turn_b in ((x, 16, 12), (y, 8, 7)):
        yield from (_word("m", i), _alu("+", a, "m"), _alu("+", a, b), _alu("^", d, a), *_rotated(d, turn_d))
        yield from (_alu("+", c, d), _alu("^", b, c), *_rotated(b, turn_b))


def _blake2s() -> list[str]:
    """RFC 7693, 3.2. r1 points to the state, r2 to the block; r3 bytes counted, r4 the mask of the last block."""
    homes = {f"v{i}": Home(-128 + 4 * i) for i in range(16)} | {"twice": Home(-136, 64), "state": Home(-144, 64)}
    text = [*_words_to_frame("r2", _BLOCK, 16), *_words_to_frame("r1", -128, 8), *_to_frame(-144, "r0 = r1")]
    for i, word in enumerate(SHA256_INITIAL):
        text += [f"w0 = {word - (word >> 31 << 32)}", *{4: ["w0 ^= w3"], 6: ["w0 ^= w4"]}.get(i, [])]
        text.append(f"*(u32 *)(r10 - {96 - 4 * i}) = r0")
    text += _to_frame(-136, f"r0 = {_TWICE} ll")
    ops: list[Op] = []
    for row in BLAKE2S_SIGMA:
        for i, (a, b, c, d) in enumerate(BLAKE2S_LANES):
            ops += _blake2s_mix(f"v{a}", f"v{b}", f"v{c}", f"v{d}", row[2 * i], row[2 * i + 1])
    for i in range(8):
        ops += [
            _at("m", "state", i),
            _alu("^", f"v{i}", f"v{i + 8}"),
            _alu("^", f"v{i}", "m"),
            _put(f"v{i}", "state", i),
        ]
    return text + StraightLine(ops, homes).instructions()


def _sum_of_turns(x: str, first: int, second: int, third: int) -> list[Op]:
    """Put into `sum` x rotated by each of three turns, xor of all: the turns that they share are taken once."""
    return [
        *(_copy("twofold", x), Op("r{d} *= r{s}", "twofold", "twice")),
        *(_wide_copy("sum", "twofold"), _shift("sum", second - first)),
        *(_wide_copy("other", "twofold"), _shift("other", third - first)),
        *(Op("r{d} ^= r{s}", "sum", "other"), Op("r{d} ^= r{s}", "sum", "twofold"), _shift("sum", first)),
    ]


def _schedule_part(x: str, first: int, second: int, shift: int) -> list[Op]:
    """Put into `sum` x rotated by two turns and x shifted, xor of all."""
    return [
        *(_copy("twofold", x), Op("r{d} *= r{s}", "twofold", "twice"), _wide_copy("sum", "twofold")),
        *(_shift("sum", second - first), Op("r{d} ^= r{s}", "sum", "twofold"), _shift("sum", first)),
        *(_copy("other", x), _shift("other", shift, wide=False), _alu("^", "sum", "other")),
    ]


def _sha256_round(i: int, state: Sequence[str]) -> list[Op]:
    """FIPS 180-4, 6.2.2 step 3. `pair` is b ^ c, which the round before had as its a ^ b."""
    a, b, _, d, e, f, g, h = state
    return [
        *(_alu("+", h, "word"), _at("k", "constants", i), _alu("+", h, "k")),
        *(_copy("pick", f), _alu("^", "pick", g), _alu("&", "pick", e), _alu("^", "pick", g), _alu("+", h, "pick")),
        *(*_sum_of_turns(e, 6, 11, 25), _alu("+", h, "sum"), _alu("+", d, h)),
        *(
            _copy("next", a),
            _alu("^", "next", b),
            _alu("&", "pair", "next"),
            _alu("^", "pair", b),
            _alu("+", h, "pair"),
        ),
        *(*_sum_of_turns(a, 2, 13, 22), _alu("+", h, "sum"), _copy("pair", "next")),
    ]


def _sha256_extend(i: int) -> list[Op]:
    """Make the word that stands sixteen behind word i and put it in its place; word i + 1 becomes the current one."""
    return [
        *(_word("following", i + 1 & 15), *_schedule_part("following", 7, 18, 3), _alu("+", "word", "sum")),
        *(_word("near", i + 14 & 15), *_schedule_part("near", 17, 19, 10), _alu("+", "word", "sum")),
        *(_word("near", i + 9 & 15), _alu("+", "word", "near")),
        *(Op(f"*(u32 *)(r10 - {-(_BLOCK + 4 * i)}) = r{{d}}", "word"), _copy("word", "following")),
    ]


def _sha256_rounds(*, extends: bool) -> list[Op]:
    """Sixteen rounds; `extends` makes the words of the next sixteen. The state is where it was afterwards."""
    ops = [_word("word", 0), _copy("pair", "b"), _alu("^", "pair", "c")]
    for i in range(16):
        turned = 8 - i % 8
        ops += _sha256_round(i, _STATE[turned:] + _STATE[:turned])
        if extends:
            ops += _sha256_extend(i)
        elif i < 15:
            ops.append(_word("word", i + 1))
    return ops


def _sha256() -> list[str]:
    """FIPS 180-4, 6.2.2. r1 points to the state, r2 to the block."""
    homes = {name: Home(-96 + 4 * i) for i, name in enumerate(_STATE)} | {"pair": Home(-100), "word": Home(-104)}
    homes |= {"twice": Home(-112, 64), "constants": Home(-120, 64), "state": Home(-128, 64)}
    text = [*_swapped_to_frame("r2", _BLOCK, 16), *_words_to_frame("r1", -96, 8)]
    text += [*_to_frame(-128, "r0 = r1"), *_to_frame(-112, f"r0 = {_TWICE} ll"), *_to_frame(-136, "r0 = 0")]
    text += ["r0 = %[config] ll", *_to_frame(-120, "r0 += %[constants]"), "l1_%=:"]
    text += StraightLine(_sha256_rounds(extends=True), homes, _STATE).instructions()
    text += ["r0 = *(u64 *)(r10 - 120)", *_to_frame(-120, "r0 += 64")]
    text += ["r0 = *(u64 *)(r10 - 136)", *_to_frame(-136, "r0 += 1"), "if r0 != 3 goto l1_%="]
    ops = _sha256_rounds(extends=False)
    for i, name in enumerate(_STATE):
        ops += [_at("k", "state", i), _alu("+", name, "k"), _put(name, "state", i)]
    return text + StraightLine(ops, homes).instructions()


_HEAD = """/* SPDX-License-Identifier: Apache-2.0 */
/* Generated by `python -m fabricbios.dataplane.build`: fabricbios/dataplane/hash_code.py says how, and why. */
#ifndef FABRICBIOS_HASHES_GEN_H
#define FABRICBIOS_HASHES_GEN_H

#include "hash.h"
#include "maps.h"
"""
_OPERANDS = '[config] "i"(&config), [constants] "i"(__builtin_offsetof(struct xdp_config, sha256_k))'


def _function(comment: str, name: str, more: Sequence[str], text: Sequence[str]) -> str:
    """Wrap code in a C function, whose arguments it finds in r1, r2 ... and which expects no register again."""
    arguments = ["state", "block", *more]
    declared = ", ".join(("struct hash_state *state", "const struct hash_block *block", *(f"__u32 {m}" for m in more)))
    pinned = "".join(f'\tregister __u64 r{i} asm("r{i}") = (long){a};\n' for i, a in enumerate(arguments, 1))
    taken = ", ".join(f'"+r"(r{i})' for i in range(1, len(arguments) + 1))
    spoilt = ", ".join(f'"r{i}"' for i in (0, *range(len(arguments) + 1, 10)))
    body = "\n".join(f'\t\t"{row};"' for row in text)
    return (
        f"\n/* {comment} */\n__noinline int {name}({declared})\n{{\n\tif (!state || !block)\n\t\treturn -1;\n{pinned}"
        f'\tasm volatile(\n{body}\n\t\t: {taken} : {_OPERANDS} : {spoilt}, "memory");\n\treturn 0;\n}}\n'
    )


def generated_hashes() -> str:
    """Return the text that `bpf/hashes_gen.h` must have."""
    sha256 = "SHA-256 (FIPS 180-4, 6.2.2): compress the block, as it lies in memory, into the state."
    blake2s = (
        "BLAKE2s (RFC 7693, 3.2): compress the block into the state. `counted` is how many bytes were hashed so far,\n"
        " * this block and the key block included; `last` is all ones in the last block."
    )
    return (
        _HEAD
        + _function(sha256, "sha256_block", (), _sha256())
        + _function(blake2s, "blake2s_block", ("counted", "last"), _blake2s())
        + "\n#endif\n"
    )
