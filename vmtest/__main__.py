"""`python -m vmtest [[run] [--kernel K] [pytest arguments] | build | shell [MACHINE] | command [MACHINE] SCRIPT]`.

A MACHINE is `--systemd` (its PID 1) or `--kernel 6.1` (Debian 12's).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from vmtest import PROJECT, Unavailable, boot, build, qemu
from vmtest.kernel import DEFAULT, KERNELS

_OTHERS = [name for name in KERNELS if name != DEFAULT]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vmtest", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="make the machine unless it is there")
    run = commands.add_parser("run", help="run the tests of tests/vm inside; further arguments go to pytest")
    run.add_argument("--kernel", choices=KERNELS, help="only what is tested on this kernel")
    for name in ("shell", "command"):
        sub = commands.add_parser(name, help="a prompt, or one shell command, inside")
        machine = sub.add_mutually_exclusive_group()
        machine.add_argument("--systemd", action="store_const", const="systemd", dest="profile")
        machine.add_argument("--kernel", choices=_OTHERS, dest="profile")
        sub.set_defaults(profile="plain")
        if name == "command":
            sub.add_argument("script")
    return parser


def _build() -> int:
    started = time.monotonic()
    machine = build.machine()
    print(f"{machine.root.parent} ({time.monotonic() - started:.0f} s, accelerator {qemu.accelerator()})")
    return 0


def _run_tests(kernel: str | None, arguments: list[str]) -> int:
    """Without a path among the arguments it is all of tests/vm."""
    environment = os.environ | {"FABRICBIOS_REQUIRE": "vm"}
    where = [] if any(argument.startswith("tests/vm") for argument in arguments) else ["tests/vm"]
    command = [sys.executable, "-m", "pytest", *where, *_tested_on(kernel), *arguments]
    return subprocess.run(command, cwd=PROJECT, env=environment).returncode


def _tested_on(kernel: str | None) -> list[str]:
    """Return the arguments that leave pytest the items of one kernel: those that name none are for the DEFAULT."""
    if kernel is None:
        return []
    others = " and ".join(f'not vm(kernel="{name}")' for name in _OTHERS)
    return ["-m", others if kernel == DEFAULT else f'vm(kernel="{kernel}")']


def _run_command(profile: str, script: str) -> int:
    ended = boot.boot(profile, "command", script)
    sys.stdout.write(ended.console)
    return 1 if ended.status is None else ended.status


def main() -> int:
    """Carry out one command; return the exit status. Options alone are those of `run`."""
    words = sys.argv[1:]
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "run")
    arguments, rest = _parser().parse_known_args(words)
    try:
        match arguments.command:
            case "build":
                return _build()
            case "shell":
                return boot.shell(arguments.profile)
            case "command":
                return _run_command(arguments.profile, arguments.script)
            case _:
                return _run_tests(arguments.kernel, rest)
    except Unavailable as error:
        print(f"vmtest: {error}", file=sys.stderr)
        return 5


if __name__ == "__main__":
    sys.exit(main())
