"""The `fabricbios` command as a person runs it: its two outputs, its exit code, and documents that fit.

`run` is quick: the whole command, its outermost guard included, in this very process. `start` makes a process.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest

from fabricbios.cli.main import main

SCHEMAS = Path(__file__).parents[1] / "docs/schema"
COMMAND = [sys.executable, "-m", "fabricbios.cli"]


class Done(NamedTuple):
    code: int
    out: bytes
    err: str


def fits(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document that its own schema accepts."""
    noun = document["schema"].removeprefix("fabricbios.").partition("/")[0]
    jsonschema.validate(document, json.loads((SCHEMAS / f"{noun}.json").read_text()))
    return document


class Cli:
    """Somebody with an identity of their own, and a node in mind."""

    def __init__(self, identity: Path, port: int, host: str = "127.0.0.1") -> None:
        self.identity = identity
        self.whom = ["-H", f"{host}:{port}", "--identity", str(identity)]

    def start(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([*COMMAND, *self.whom, *words], env=environment(), **pipes)

    def run(self, *words: str, stdin: bytes = b"") -> Done:
        return call(*self.whom, *words, stdin=stdin)

    def json(self, *words: str) -> dict[str, Any]:
        """Return the one document of a command that succeeds."""
        done = self.run(*words, "--json")
        assert done.code == 0, done.err
        return fits(json.loads(done.out))

    def fails(self, code: int, *words: str, stdin: bytes = b"") -> str:
        """Return what is said, for people in one line and for scripts in one object, when it fails with `code`."""
        told = self.run(*words, stdin=stdin)
        assert told.code == code, told
        assert told.err.startswith("fabricbios: ")
        assert told.err.count("\n") == 1, told.err
        document = fits(json.loads(self.run(*words, "--json", stdin=stdin).err))
        assert document["exit_code"] == code
        assert document["error"] in told.err
        return told.err


def call(*words: str, stdin: bytes = b"", **variables: str) -> Done:
    """Run the command here, with streams and environment of its own."""
    streams = {
        name: io.TextIOWrapper(io.BytesIO(stdin if name == "stdin" else b"")) for name in ("stdin", "stdout", "stderr")
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("FABRICBIOS")]:
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["fabricbios", *words])
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        with pytest.raises(SystemExit) as ended:
            main()
    streams["stderr"].flush()
    out, err = (streams[name].buffer.getvalue() for name in ("stdout", "stderr"))
    return Done(int(ended.value.code or 0), out, err.decode())


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("FABRICBIOS")}
