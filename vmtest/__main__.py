"""`python -m vmtest [run [pytest arguments] | build | shell [--systemd] | command [--systemd] SCRIPT]`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from vmtest import PROJECT, Unavailable, boot, build, qemu


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vmtest", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("build", help="make the machine unless it is there")
    commands.add_parser("run", help="run the tests of tests/vm inside; further arguments go to pytest")
    for name in ("shell", "command"):
        sub = commands.add_parser(name, help="a prompt, or one shell command, inside")
        sub.add_argument("--systemd", action="store_const", const="systemd", default="plain", dest="profile")
        if name == "command":
            sub.add_argument("script")
    return parser


def _build() -> int:
    started = time.monotonic()
    machine = build.machine()
    print(f"{machine.root.parent} ({time.monotonic() - started:.0f} s, accelerator {qemu.accelerator()})")
    return 0


def _run_tests(arguments: list[str]) -> int:
    environment = os.environ | {"FABRICBIOS_REQUIRE": "vm"}
    command = [sys.executable, "-m", "pytest", "tests/vm", *arguments]
    return subprocess.run(command, cwd=PROJECT, env=environment).returncode


def _run_command(profile: str, script: str) -> int:
    ended = boot.boot(profile, "command", script)
    sys.stdout.write(ended.console)
    return 1 if ended.status is None else ended.status


def main() -> int:
    """Carry out one command; return the exit status."""
    arguments, rest = _parser().parse_known_args()
    try:
        match arguments.command:
            case "build":
                return _build()
            case "shell":
                return boot.shell(arguments.profile)
            case "command":
                return _run_command(arguments.profile, arguments.script)
            case _:
                return _run_tests(rest)
    except Unavailable as error:
        print(f"vmtest: {error}", file=sys.stderr)
        return 5


if __name__ == "__main__":
    sys.exit(main())
