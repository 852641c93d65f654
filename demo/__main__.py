"""The main job, step by step, each with its time; fails loudly if any step is not what it should be."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo.adversary import LateReader, forged_and_replayed
from demo.stage import Stage, leftovers, namespaces_possible, stage
from fabricbios.model import DpStatus

LEASE_BYTES, FILE_BYTES = 64 << 20, 8 << 20
LEASE_SECONDS = 60


class Steps:
    """Prints each step with its time; remembers them for the summary."""

    def __init__(self) -> None:
        self.done: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        said: list[str] = []
        begun = time.monotonic()
        if sys.stdout.isatty():
            print(f"{len(self.done) + 1:2}. {what} ...", end="\r", flush=True)
        yield said
        took = time.monotonic() - begun
        self.done.append((what, took))
        print(f"{len(self.done):2}. {what}  [{took * 1000:.0f} ms]", flush=True)
        for line in said:
            print(f"      {line}")


def check(holds: bool, why: str) -> None:
    if not holds:
        raise SystemExit(f"\ndemo: FAILED: {why}")


def run_cli(theatre: Stage, *words: str, stdin: bytes | None = None) -> bytes:
    """Run `fabricbios` and demand that it succeeds."""
    done = theatre.run(*words, stdin=stdin)
    check(done.returncode == 0, f"fabricbios {' '.join(words)} exited {done.returncode}: {done.stderr.decode()}")
    return done.stdout


def drops(metrics: tuple[str, int]) -> dict[str, float]:
    """Return the node's FBMU drop counters by reason."""
    with urllib.request.urlopen(f"http://{metrics[0]}:{metrics[1]}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if line.startswith('fabricbios_dp_drops_total{plane="fbmu"'):
            found[line.split('reason="')[1].split('"')[0]] = float(line.split()[-1])
    return found


def a_real_file() -> bytes:
    """Return at least FILE_BYTES that no accident reproduces: this Python's own binary, and seeded noise."""
    data = Path(sys.executable).resolve().read_bytes()
    return data + random.Random(57).randbytes(max(0, FILE_BYTES - len(data)))


def play(theatre: Stage, steps: Steps) -> None:
    port = "0"
    with steps.step("start a relay") as said:
        relay, relay_ready = theatre.daemon(
            1, "relay", "--bind", theatre.client_addr, "--discovery-port", port,
            "--state-dir", str(theatre.directory / "relay"), "--trust-dir", str(theatre.directory / "none"),
        )  # fmt: skip
        relay_at = f"{theatre.client_addr}:{relay_ready['discovery']['port']}"
        said.append(f"on {relay_at}")
    with steps.step("start a node on this machine's hardware") as said:
        fast_path = ("--xdp-iface", "fbnode0") if theatre.namespaces else ("--xdp", "off")
        node, ready = theatre.daemon(
            0, "node", "--bind", theatre.node_addr, "--state-dir", str(theatre.directory / "node"),
            "--runtime-dir", str(theatre.directory / "run"), "--trust-dir", str(theatre.directory / "none"),
            "--control-port", port, "--discovery-port", port, "--fbmu-port", port, "--fbbu-port", port,
            "--mem-capacity", "256M", "--relay", relay_at, "--metrics", f"{theatre.node_addr}:0", *fast_path,
        )  # fmt: skip
        said.append(f"node {ready['node_id']}, data path {ready['paths']['fbmu']}")
    theatre.enter_client()
    host = f"{ready['control']['addr']}:{ready['control']['port']}"
    metrics = ready["metrics"]["addr"], ready["metrics"]["port"]
    words = ("-H", host, "--identity", str(theatre.directory / "client"))

    def ask(*command: str) -> Any:
        return json.loads(run_cli(theatre, *words, *command, "--json"))

    with steps.step("discover it through the relay, and prove what the relay says") as said:
        found = ask("nodes", "--relay", relay_at)["nodes"]
        check([n["node_id"] for n in found] == [ready["node_id"]], f"the relay lists {found}")
        check(found[0]["verified"] is True, "the entry is not proven")
        said.append(f"{found[0]['node_id'][:10]}... at {found[0]['address']}, signature verified")
    with steps.step("claim it and get a token") as said:
        token = ask("token", "request")
        said.append(f"token {token['token_id'][:10]}..., perms {','.join(token['perms'])}")
    with steps.step("lease 64 MiB of its memory") as said:
        lease = ask("lease", "mem", "--size", "64M", "--ttl", f"{LEASE_SECONDS}s")
        check(lease["size"] == LEASE_BYTES, f"granted {lease['size']} bytes")
        said.append(f"lease {lease['lease_id'][:10]}..., {lease['dp_auth']}, expires in {LEASE_SECONDS} s")
    data = a_real_file()
    digest = hashlib.sha256(data).hexdigest()
    with steps.step(f"write a file of {len(data) / 2**20:.1f} MiB to it"):
        run_cli(theatre, *words, "write", lease["lease_id"], "--offset", "4096", stdin=data)
    with steps.step("read it back and compare the hash") as said:
        back = run_cli(theatre, *words, "read", lease["lease_id"], "--offset", "4096", "--length", str(len(data)))
        check(hashlib.sha256(back).hexdigest() == digest, "the bytes that came back are others")
        said.append(f"sha256 {digest[:16]}... both ways")
    with steps.step("send a forged and a replayed datagram") as said:
        before = drops(metrics)
        answered = forged_and_replayed(host, theatre.directory / "client", int(lease["lease_id"], 16))
        after = drops(metrics)
        for reason in ("bad_tag", "replayed"):
            check(after[reason] - before.get(reason, 0) == 1, f"{reason}: {before.get(reason)} -> {after[reason]}")
        check(not answered, "the node answered one of them")
        said.append("both dropped without an answer, counted as bad_tag and replayed")
    with steps.step("renew the lease") as said:
        renewed = ask("renew", lease["lease_id"], "--ttl", f"{LEASE_SECONDS + 30}s")
        check(renewed["expires_at"] > lease["expires_at"], "renewing did not prolong it")
        said.append(f"now ends {renewed['expires_at'] - lease['expires_at']} s later")
    seconds = 2 + int(3 * steps.done[-1][1])  # time for two commands on this machine, however busy
    with steps.step(f"lease 1 MiB more for {seconds} s, write, and let it expire") as said:
        short = ask("lease", "mem", "--size", "1M", "--ttl", f"{seconds}s")
        run_cli(theatre, *words, "write", short["lease_id"], "--offset", "0", stdin=b"gone in a moment")
        late = LateReader(host, theatre.directory / "client", int(short["lease_id"], 16))
        check(late.read_status() == DpStatus.OK, "the live lease is not served")
        time.sleep(max(0.0, short["expires_at"] - time.time()) + 0.2)
        said.append(f"expired at {time.strftime('%H:%M:%S', time.localtime(short['expires_at']))}")
    with steps.step("read it again: refused by the data plane, and by the node") as said:
        check(late.read_status() == DpStatus.EXPIRED, "the data plane serves an expired lease")
        said.append("data plane: EXPIRED to a genuine question under the lease's own key")
        refused = theatre.run(*words, "read", short["lease_id"], "--offset", "0", "--length", "16")
        check(refused.returncode == 3 and not refused.stdout, f"exit {refused.returncode}: {refused.stdout!r}")
        said.append(refused.stderr.decode().strip())
    with steps.step("free the other, and stop the node with nothing left behind") as said:
        run_cli(theatre, *words, "free", lease["lease_id"])
        left = ask("leases")["leases"]
        check(left == [], f"leases are left: {left}")
        took = theatre.stop(node)
        check(node.returncode == 0, f"the node exited {node.returncode}")
        theatre.stop(relay)
        said.append(f"no lease, no process; the node was gone {took * 1000:.0f} ms after SIGTERM")


def main() -> int:
    argparse.ArgumentParser(prog="./dev demo", description=__doc__).parse_args()
    why = namespaces_possible()
    print("fabricBIOS demo: " + ("two network namespaces joined by veth" if not why else f"on loopback ({why})"))
    steps = Steps()
    with stage() as theatre:
        names = theatre.namespaces
        play(theatre, steps)
    left = leftovers(names)
    check(not left, f"left behind: {left}")
    total = sum(took for _, took in steps.done)
    print(f"\nall {len(steps.done)} steps done in {total:.1f} s; nothing left behind (namespaces, pins, processes)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
