"""`fabricbiosd relay` as a process: its ready line, its signals, and a second one on the same ground."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

from fabricbios.transport.solicit import solicit


def relay(folder: Path, port: int = 0) -> "subprocess.Popen[str]":
    where = ["--state-dir", str(folder / "state"), "--trust-dir", str(folder / "trust.d")]
    command = [sys.executable, "-m", "fabricbios.daemon", "relay", "--bind", "127.0.0.1"]
    command += ["--discovery-port", str(port), *where]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_relays_life(tmp_path: Path) -> None:
    first = relay(tmp_path)
    try:
        assert first.stdout is not None
        assert first.stderr is not None
        line = first.stdout.readline()
        ready = json.loads(line.removeprefix("ready "))
        assert ready["schema"] == "fabricbios.ready/1"
        assert set(ready) == {"schema", "node_id", "pid", "version", "claimed", "discovery"}
        port = ready["discovery"]["port"]
        seconds = [relay(tmp_path, port), relay(tmp_path / "another", port)]
        assert asyncio.run(solicit([("127.0.0.1", port)], timeout=60)) == []

        (tmp_path / "trust.d/peers").mkdir(parents=True)
        (tmp_path / "trust.d/peers/x.pem").write_text("junk")
        first.send_signal(signal.SIGHUP)
        assert "x.pem" in first.stderr.readline()

        for second in seconds:
            _, complaint = second.communicate(timeout=120)
            assert (second.returncode, complaint.count("\n")) == (1, 1)
            assert "in use" in complaint
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == 0
    finally:
        first.kill()
        first.communicate()
