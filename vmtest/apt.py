"""apt with its own package lists, so that the host's sources stay as their admin left them.

The mirror is the one the host already uses: `apt-get indextargets` is apt's own view of its sources.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from vmtest import Unavailable

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def host_codename() -> str:
    """Return VERSION_CODENAME of os-release, "" where there is none."""
    for line in Path("/etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "VERSION_CODENAME":
            return value.strip('"')
    return ""


def host_mirror() -> str:
    """Return the URI from which this host installs Debian's main; raise Unavailable where it has none."""
    query = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Identifier: Packages", "Component: main"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"apt-get indextargets: {error} (the machine is made on Debian 12 or 13)") from error
    codename = host_codename()
    for line in answer.splitlines():
        uri, _, release = line.rpartition(" ")
        if release == codename:
            return uri.rstrip("/")
    raise Unavailable(f"apt has no source with component main for {codename!r}")


def source_line(mirror: str, suite: str) -> str:
    """Return one line of sources.list, signed by Debian's own keyring."""
    return f"deb [signed-by={KEYRING}] {mirror} {suite} main\n"


class Apt:
    """apt-get over the given suites with lists of its own below `state`.

    With `host` it installs into the running system; without, it knows no installed package and only
    downloads. Failures are CalledProcessError; output goes to `log`.
    """

    def __init__(self, state: Path, suites: tuple[str, ...], log: int, host: bool) -> None:
        (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (state / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        mirror = host_mirror()
        (state / "sources.list").write_text("".join(source_line(mirror, suite) for suite in suites))
        (state / "status").touch()
        self.log = log
        self.options = [
            f"Dir::Etc::SourceList={state / 'sources.list'}",
            "Dir::Etc::SourceParts=/dev/null",
            f"Dir::State::Lists={state / 'lists'}",
            f"Dir::Cache={state}",
            f"Dir::Cache::Archives={state / 'archives'}",
            "DPkg::Lock::Timeout=600",
            # The downloading user of apt need not be able to read a checkout in somebody's home.
            "APT::Sandbox::User=root",
            "Acquire::Languages=none",
        ]
        if not host:
            self.options += [f"Dir::State::Status={state / 'status'}", "APT::Architecture=amd64"]

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [program, "-q", *(part for option in self.options for part in ("-o", option)), *arguments]

    def run(self, *arguments: str, cwd: Path | None = None) -> None:
        """Run apt-get with these arguments."""
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(
            self._command("apt-get", *arguments),
            check=True,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )

    def depends(self, package: str) -> list[str]:
        """Return the names of the packages that `package` depends on."""
        command = self._command("apt-cache", "depends", "--important", package)
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        lines = (line.split() for line in answer.splitlines())
        return [words[1] for words in lines if len(words) == 2 and words[0] == "Depends:"]
