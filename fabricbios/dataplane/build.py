"""Build the blobs of BPF programs that the package ships: `python -m fabricbios.dataplane.build [--check]`.

Build time alone needs clang and pyelftools. What the loader gets is linked: one flat piece of instructions, calls
resolved, and a list of the places where a map's descriptor goes. `--check` says whether the shipped blobs are what
these sources and this clang give.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Symbol, SymbolTableSection

from fabricbios.dataplane import trace
from fabricbios.dataplane.blob import BLOB_FILE, TRACE_BLOB_FILE, Blob, MapUse
from fabricbios.dataplane.btf import btf_string, without_datasecs
from fabricbios.dataplane.hash_code import HASHES_FILE, generated_hashes
from fabricbios.dataplane.xdp_layout import BPF_DIR, HEADER_FILE, generated_header

SOURCE = BPF_DIR / "fabricbios.bpf.c"
ENTRY = "fabricbios"
CLANGS = ("clang-14", "clang")  # the first is what the shipped blob was made with
_FLAGS = ("-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror")
_CALL, _LOAD_64 = 0x85, 0x18
_PSEUDO_CALL, _TEXT = 1, ".text"
_INSTRUCTION = struct.Struct("<BBhi")


class Target(NamedTuple):
    """A program, and what the package ships of it."""

    source: Path
    blob: Path


MAIN = Target(SOURCE, BLOB_FILE)
TRACE = Target(trace.TRACE_DIR / "trace.bpf.c", TRACE_BLOB_FILE)


class Relocation(NamedTuple):
    """One place of a section that names a symbol; `at` is in bytes."""

    at: int
    symbol: Symbol


def compile_object(target: Path, source: Path = SOURCE, *flags: str) -> str:
    """Compile into `target`; return the version of the clang that did. FileNotFoundError without one."""
    clang = next((name for name in CLANGS if _version(name)), None)
    if clang is None:
        raise FileNotFoundError(f"none of {', '.join(CLANGS)} is installed")
    include = f"/usr/include/{platform.machine()}-linux-gnu"
    anywhere = f"-ffile-prefix-map={BPF_DIR}=bpf"  # BTF names files: the same ones wherever the checkout is
    command = [clang, *_FLAGS, anywhere, *flags, f"-I{include}", "-I.", "-c", str(source), "-o", str(target)]
    subprocess.run(command, cwd=BPF_DIR, check=True)
    return _version(clang)


def _version(clang: str) -> str:
    try:
        said = subprocess.run([clang, "--version"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        return ""
    found = re.search(r"clang version (\S+)", said)
    return found[1] if found else ""


def link(path: Path, clang: str, sources: str) -> Blob:
    """Put the entry and all functions it calls behind each other; collect what is left for the loader."""
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        entry, called = bytearray(_data(elf, "xdp")), bytearray(_data(elf, _TEXT))
        sections = {elf.get_section_index(name) or 0: name for name in (_TEXT, ".maps", ".rodata")}
        uses: list[MapUse] = []
        for name, code, base in (("xdp", entry, 0), (_TEXT, called, len(entry))):
            for relocation in _relocations(elf, name):
                uses += _resolve(code, base, relocation, sections, len(entry))
        btf = _data(elf, ".BTF")
        functions = _functions(_data(elf, ".BTF.ext"), btf, {"xdp": 0, _TEXT: len(entry) // 8})
        size = len(_data(elf, ".rodata"))
    return Blob(bytes(entry + called), tuple(uses), functions, without_datasecs(btf), size, sources, clang)


def _data(elf: ELFFile, section: str) -> bytes:
    found = elf.get_section_by_name(section)
    if found is None:
        raise ValueError(f"the object has no section {section}")
    return bytes(found.data())


def _functions(ext: bytes, btf: bytes, first: dict[str, int]) -> bytes:
    """Return struct bpf_func_info[] for the linked code; `first` is where each section's instructions went."""
    header, at, size = struct.unpack_from("<4xIII", ext)
    at += header
    end, (record,) = at + size, struct.unpack_from("<I", ext, at)
    at, found = at + 4, []
    while at < end:
        name_at, count = struct.unpack_from("<II", ext, at)
        for i in range(count):
            offset, type_id = struct.unpack_from("<II", ext, at + 8 + i * record)
            found.append((first[btf_string(btf, name_at)] + offset // 8, type_id))
        at += 8 + count * record
    return b"".join(struct.pack("<II", *entry) for entry in sorted(found))


def _relocations(elf: ELFFile, section: str) -> Iterator[Relocation]:
    symbols, table = elf.get_section_by_name(".symtab"), elf.get_section_by_name(".rel" + section)
    if isinstance(symbols, SymbolTableSection) and isinstance(table, RelocationSection):
        for entry in table.iter_relocations():
            yield Relocation(entry["r_offset"], symbols.get_symbol(entry["r_info_sym"]))


def _resolve(code: bytearray, base: int, where: Relocation, sections: dict[int, str], text_at: int) -> list[MapUse]:
    """Patch a call, or return the use of a map; anything else is not for these programs."""
    opcode, registers, _, immediate = _INSTRUCTION.unpack_from(code, where.at)
    section = sections.get(where.symbol["st_shndx"], "")
    at = (base + where.at) // 8
    if opcode == _CALL and section == _TEXT:
        target = (text_at + where.symbol["st_value"]) // 8 + (immediate + 1 if not where.symbol.name else 0)
        patched = _INSTRUCTION.pack(opcode, registers & 15 | _PSEUDO_CALL << 4, 0, target - at - 1)
        code[where.at : where.at + 8] = patched
        return []
    if opcode == _LOAD_64 and section == ".maps":
        return [MapUse(at, where.symbol.name, -1)]
    if opcode == _LOAD_64 and section == ".rodata":
        return [MapUse(at, "config", where.symbol["st_value"] + immediate)]
    raise ValueError(f"{where.symbol.name!r}: a relocation of instruction {opcode:#x} in {section!r}")


def sources_digest(target: Target = MAIN) -> str:
    """Hash everything that goes into the object, so that a stale blob is found without a compiler."""
    digest = hashlib.sha256()
    folders = dict.fromkeys((BPF_DIR, target.source.parent))
    for path in sorted(path for folder in folders for kind in ("*.h", "*.c") for path in folder.glob(kind)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def build(target: Target = MAIN) -> Blob:
    """Write the generated headers, compile, link."""
    headers = {
        HEADER_FILE: generated_header(),
        HASHES_FILE: generated_hashes(),
        trace.HEADER_FILE: trace.generated_header(),
    }
    for path, text in headers.items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "fabricbios.bpf.o"
        return link(made, compile_object(made, target.source), sources_digest(target))


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the shipped BPF programs.")
    parser.add_argument("--check", action="store_true", help="compare with the shipped blob only")
    wants_check = parser.parse_args().check
    stale = [target.blob for target in (MAIN, TRACE) if not _is_fresh(target, wants_check)]
    for blob in stale:
        print(f"{blob.name} is stale: run `python -m fabricbios.dataplane.build`", file=sys.stderr)
    return 1 if stale else 0


def _is_fresh(target: Target, wants_check: bool) -> bool:
    """Compare the shipped blob with what the sources give, or write it."""
    text = build(target).to_text()
    if not wants_check:
        target.blob.write_text(text)
    return target.blob.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
