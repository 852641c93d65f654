"""`fabricbios inventory` and `fabricbios doctor`: tables for people, documents for scripts, exit codes."""

import json
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from fabricbios.cli import doctor, inventory
from fabricbios.cli.main import cli

SCHEMAS = Path(__file__).parents[3] / "docs/schema"


def run(*arguments):
    return CliRunner().invoke(cli, arguments, standalone_mode=False)


def probe(name, ok, required):
    return {
        "name": name,
        "ok": ok,
        "found": "f",
        "remedy": "" if ok else "do this",
        "serves": "s",
        "required": required,
    }


@pytest.mark.parametrize("noun", ["inventory", "doctor"])
def test_the_document_is_of_its_schema(noun):
    document = json.loads(run(noun, "--json").stdout)
    jsonschema.validate(document, json.loads((SCHEMAS / f"{noun}.json").read_text()))
    assert document["schema"] == f"fabricbios.{noun}/1"


def test_tables_by_kind():
    shown = run("inventory").stdout
    assert "CPU" in shown
    assert "Memory" in shown


def test_a_node_is_not_this_machine():
    result = run("-H", "10.0.0.1", "inventory")
    assert "fabricbios status -H" in str(result.exception)


def test_every_kind_shows_its_rows(monkeypatch):
    from fabricbios.hw import gpu, net, nvme, thermal
    from fabricbios.hw import inventory as hw

    card = gpu.Gpu("0000:c1:00.0", "AMD", 0x1002, 1, "", "amdgpu", 1 << 30, gpu.BY_BAR, (), ("renderD128",), 0)
    port = net.Nic("0000:01:00.0", True, "ens1", 2, "aa:bb:cc:00:00:01", 1500, True, "physical", "ice", 25 * 10**9,
                   "full", True, "up", "", 64, None, False, 0, "")  # fmt: skip
    disk = nvme.NvmeController("0000:02:00.0", "nvme0", "Fast", "S", "1", "pcie", "", "live", "", ("nvme0n1",))
    heat = thermal.Thermals((thermal.Zone("thermal_zone0", "soc", 48_250, ()),), (), (), False)
    found = hw.detect("/nonexistent")._replace(gpu=(card,), net=(port,), nvme=(disk,), thermal=heat)
    monkeypatch.setattr(inventory, "local_inventory", found.to_json)
    shown = run("inventory").stdout
    for text in ("1 GiB (largest prefetchable BAR)", "25000 Mbit/s", "0/64", "Fast", "48.2 °C", "throttled"):
        assert text in shown


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 5)])
def test_doctor_exits_by_what_is_required(monkeypatch, ok, code):
    monkeypatch.setattr(doctor, "diagnose", lambda needed: [probe("memfd", ok, True), probe("xdp", False, False)])
    result = run("doctor")
    assert result.return_value == code
    assert "do this" in result.stdout


def test_doctor_can_be_asked_for_more():
    assert run("doctor", "--need", "CLOCK_BOOTTIME").return_value == 0
    assert "is none of" in str(run("doctor", "--need", "warp drive").exception)
