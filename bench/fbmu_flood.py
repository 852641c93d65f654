"""Legitimate answers a second while forged datagrams come in at full speed, by those without.

Three attackers. One has the other core and a link of its own, as on a network card whose queues go to several cores:
what the kernel does to a frame it does on the core of its queue. One has the other core, but sends into the client's
own queue, whose 256 places friend and foe share. One shares core and queue with the client: half of its harm is that
of any busy process there, so its figure says more about the scheduler. The user-space server hears all on one core.
"""

from __future__ import annotations

import json
import statistics
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from fbmu_peers import Target
from fbmu_user import Load, prepare
from report import Row
from stage import SERVER, Stage

from fabricbios.model import DpAuth, DpOp

CALM_SECONDS, FLOOD_SECONDS = 0.5, 1.0
AUTH = DpAuth.BLAKE2S_FULL


class Attacker(NamedTuple):
    """Where the flood comes from."""

    name: str
    namespace: str
    core: int


def attackers(stage: Stage) -> tuple[Attacker, ...]:
    friend, foe = (link.client for link in stage.links)
    return (
        Attacker("own queue, other core", foe, stage.other_core),
        Attacker("same queue, other core", friend, stage.other_core),
        Attacker("same queue, same core", friend, stage.core),
    )


def forge(questions: Path, forged: Path) -> None:
    """Write the same questions with a bit of each tag turned."""
    data = bytearray(questions.read_bytes())
    (_, size) = struct.unpack_from("=II", data)
    for at in range(8 + 40, len(data), size):
        data[at] ^= 1
    forged.write_bytes(data)


def flood_rows(
    stage: Stage, served: Callable[[], AbstractContextManager[Target]], own: Target, count: int, rounds: int
) -> Iterator[Row]:
    """Yield XDP's (`served` attaches it) and our own user-space path's figure under each attacker."""
    questions, attack = prepare(Load(DpOp.READ, 64, AUTH), count, stage.directory), stage.directory / "forged"
    forge(questions, attack)
    for attacker in attackers(stage):
        with served() as xdp:
            yield flood_row(stage, xdp, attacker, (questions, attack), rounds)
        yield flood_row(stage, own, attacker, (questions, attack), rounds)


def flood_row(stage: Stage, target: Target, attacker: Attacker, files: tuple[Path, Path], rounds: int) -> Row:
    questions, attack = files
    calm, flooded, sent = [], [], []
    for _ in range(rounds):
        calm.append(answered_a_second(stage, target, questions))
        with flood(stage, target, attacker, attack) as told:
            flooded.append(answered_a_second(stage, target, questions))
        sent.append(told[0])
    ours, without = statistics.median(flooded), statistics.median(calm)
    case = f"{target.name}, READ 64 B under {statistics.median(sent):,.0f} forged/s, {attacker.name}"
    spread = (max(flooded) - min(flooded)) / ours if ours else 0.0
    return Row(case, ours, "answers/s", "itself without", without, ours / without, rounds, spread)


def answered_a_second(stage: Stage, target: Target, questions: Path) -> float:
    """Ask for a while; losses count as time, for a flood makes them."""
    target.reset(AUTH)
    words = (stage.directory / "load", SERVER, target.port, questions, 64, "fbmu", CALM_SECONDS)
    done = subprocess.run(stage.command(stage.pair.here, stage.core, *words), capture_output=True, check=True)
    told = json.loads(done.stdout)
    return float(told["answered"] / told["seconds"])


@contextmanager
def flood(stage: Stage, target: Target, attacker: Attacker, attack: Path) -> Iterator[list[float]]:
    """Send forged datagrams for FLOOD_SECONDS; when they are over the list holds how many a second it were."""
    words = (stage.directory / "flood", SERVER, target.port, attack, FLOOD_SECONDS)
    told: list[float] = []
    with subprocess.Popen(
        stage.command(attacker.namespace, attacker.core, *words), stdout=subprocess.PIPE, text=True
    ) as sender:
        time.sleep(0.2)
        yield told
        flooded = json.loads(sender.communicate()[0])
    told.append(flooded["sent"] / flooded["seconds"])
