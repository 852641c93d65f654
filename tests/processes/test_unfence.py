"""`fabricbios unfence`: what an admin types once the disk is mended that fenced a resource."""

import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cli_rig import Cli
from node_rig import NodeProcess

pytestmark = pytest.mark.timeout(120)
MIB = 1 << 20


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    with closing(NodeProcess(tmp_path, "--block", f"{tmp_path}/disk.img:8M", mem="1M")) as process:
        process.start()
        yield process


def fenced(owner: Cli) -> list[str]:
    return [r["resource_id"] for r in owner.json("status")["resources"] if "fenced" in r["flags"]]


def test_a_file_that_was_cut_short_and_is_mended(node: NodeProcess, tmp_path: Path) -> None:
    owner, image = Cli(tmp_path / "me", node.port), tmp_path / "disk.img"
    owner.json("lease", "block", "--size", "4M", "--ttl", "10m")
    assert "no fenced resource" in owner.fails(3, "unfence", "0x")
    os.truncate(image, MIB)
    while "lease.fenced" not in node.said():  # for 5 s it is tried to wipe it
        time.sleep(0.1)
    (resource,) = fenced(owner)
    assert "fabricbios unfence" in owner.fails(3, "lease", "block", "--size", "1M", "--ttl", "1m")
    assert "RESOURCE_FENCED" in owner.fails(3, "unfence", resource), "it is still broken"
    os.truncate(image, 8 * MIB)
    while "is back" not in node.said():
        time.sleep(0.1)
    assert owner.json("unfence", resource[:10]) == {"schema": "fabricbios.unfenced/1", "resource_id": resource}
    assert fenced(owner) == []
    owner.json("lease", "block", "--size", "8M", "--ttl", "1m")
