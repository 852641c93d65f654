"""hw/nvme_host: what stands in sysfs, and option lines that no node can bend."""

import socket
from pathlib import Path

import pytest

from fabricbios.errors import Unsupported, WireError
from fabricbios.hw import nvme_host
from fabricbios.hw.nvme_host import Target

NQN = "nqn.2026-02.io.fabricbios:lease:" + "0" * 32
TARGET = Target(NQN, "tcp", "192.0.2.1", 4420, "nqn.2026-02.io.fabricbios:host:a", "DHHC-1:01:AA+/=:")


def _sysfs(root: Path) -> Path:
    for name, nqn in (("nvme0", "nqn.disk"), ("nvme1", NQN), ("nvme2", NQN)):
        controller = root / "class/nvme" / name
        controller.mkdir(parents=True)
        (controller / "subsysnqn").write_text(nqn + "\n")
    for disk, nqn in (("nvme0n1", "nqn.disk"), ("nvme1n1", NQN), ("nvme1c1n1", NQN)):
        device = root / "block" / disk / "device"
        device.mkdir(parents=True)
        (device / "subsysnqn").write_text(nqn + "\n")
    return root


def test_controllers_and_disks_are_found_by_their_subsystem(tmp_path: Path) -> None:
    sys = _sysfs(tmp_path)
    assert nvme_host.controllers(NQN, sys) == ("nvme1", "nvme2")
    assert nvme_host.disks(NQN, sys) == ("/dev/nvme1n1",), "a multipath disk, not its hidden path"
    assert set(nvme_host.subsystems(sys)) == {"nqn.disk", NQN}


def test_a_machine_without_nvme_has_none(tmp_path: Path) -> None:
    assert nvme_host.controllers(NQN, tmp_path) == nvme_host.disks(NQN, tmp_path) == ()


def test_who_answers_at_an_address_is_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert nvme_host._answers(f"traddr=127.0.0.1,trsvcid={port},src_addr=127.0.0.1")
    assert not nvme_host._answers(f"traddr=127.0.0.1,trsvcid={port}")


@pytest.mark.parametrize("address", ["", "nonsense", "traddr=127.0.0.1", "traddr=127.0.0.1,trsvcid=x"])
def test_what_has_no_address_is_not_asked(address: str) -> None:
    assert nvme_host._answers(address)


def test_a_silent_controller_is_waited_for_until_it_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").write_text("live\n")
    monkeypatch.setattr(nvme_host.time, "sleep", lambda _: (tmp_path / "state").write_text("connecting\n"))
    nvme_host._wait_until_missed(tmp_path)
    assert (tmp_path / "state").read_text() == "connecting\n"


def test_a_controller_that_went_meanwhile_is_no_error() -> None:
    """In sysfs itself, whose directories take no new files: EACCES would be an error."""
    nvme_host._delete(Path("/sys/kernel/delete_controller"))


def test_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").write_text("live\n")
    monkeypatch.setattr(nvme_host, "KEEP_ALIVE", 0)
    monkeypatch.setattr(nvme_host, "_PROBE", 0)
    nvme_host._wait_until_missed(tmp_path)


def test_the_options_say_it_all() -> None:
    options = dict(option.split("=", 1) for option in TARGET.options(7).split(","))
    assert options["traddr"] == "192.0.2.1"
    assert options["trsvcid"] == "4420"
    assert options["dhchap_secret"] == "DHHC-1:01:AA+/=:"
    assert (options["ctrl_loss_tmo"], options["keep_alive_tmo"]) == ("7", "5"), "how soon a silent node is given up"


def test_each_host_nqn_has_a_host_id_of_its_own() -> None:
    other = TARGET._replace(host_nqn=TARGET.host_nqn + "b")
    assert TARGET.options(1) == TARGET.options(1)
    assert TARGET.options(1).split("hostid=")[1][:36] != other.options(1).split("hostid=")[1][:36]


def test_loop_has_no_address() -> None:
    assert "traddr" not in TARGET._replace(transport="loop", address="").options(1)


@pytest.mark.parametrize("field", ["nqn", "address", "host_nqn", "dhchap_key"])
@pytest.mark.parametrize("value", ["a,hostnqn=b", "a b", "a\n", "x" * 300])
def test_no_value_smuggles_in_an_option(field: str, value: str) -> None:
    with pytest.raises(WireError) as caught:
        TARGET._replace(**{field: value}).options(1)
    assert value not in str(caught.value)


def test_a_machine_without_the_module_is_told_what_to_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nvme_host, "FABRICS", str(tmp_path / "nvme-fabrics"))
    with pytest.raises(Unsupported, match="modprobe nvme-tcp"):
        nvme_host.probe()
