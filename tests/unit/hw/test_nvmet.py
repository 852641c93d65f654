"""hw/nvmet: objects of ours come and go, whatever was half done; nobody else's is touched."""

import errno
import uuid
from pathlib import Path

import pytest
from fake_nvmet import fake_nvmet, snapshot

from fabricbios.errors import LocalMisuse, Unsupported
from fabricbios.hw.nvmet import NQN_PREFIX, Listener, Nvmet

NQN = NQN_PREFIX + "lease:" + "a" * 32
HOST = NQN_PREFIX + "host:" + "b" * 32
TCP = Listener("tcp", "127.0.0.1", 4420)
EMPTY = {"hosts": "object", "ports": "object", "subsystems": "object"}
TCP_PORT, LOOP_PORT = "ports/64256", "ports/64258"


def bound(nvmet: Nvmet, nqn: str = NQN) -> None:
    nvmet.make_subsystem(nqn, "serial")
    nvmet.make_namespace(nqn, "/dev/null", uuid.UUID(int=1))
    nvmet.allow_host(nqn, HOST, "DHHC-1:01:x:")
    nvmet.offer(nqn)


def removed(nvmet: Nvmet, nqn: str = NQN) -> None:
    nvmet.withdraw(nqn)
    nvmet.remove_hosts(nqn, "b" * 32)
    nvmet.remove_subsystem(nqn)


def test_a_bound_subsystem_lets_in_one_host_only(tmp_path: Path) -> None:
    nvmet = fake_nvmet(tmp_path, TCP)
    bound(nvmet)
    assert nvmet.fs.read(f"subsystems/{NQN}/attr_allow_any_host") == "0"
    assert nvmet.fs.names(f"subsystems/{NQN}/allowed_hosts") == (HOST,)
    assert nvmet.fs.read(f"hosts/{HOST}/dhchap_key") == "DHHC-1:01:x:"
    assert nvmet.fs.read(f"{TCP_PORT}/addr_trsvcid") == "4420"
    assert nvmet.ours() == (NQN, HOST)


def test_everything_twice_is_as_once(tmp_path: Path) -> None:
    nvmet = fake_nvmet(tmp_path, TCP, Listener("loop"))
    bound(nvmet)
    first = snapshot(tmp_path)
    bound(nvmet)
    assert snapshot(tmp_path) == first
    removed(nvmet)
    removed(nvmet)
    assert snapshot(tmp_path) == EMPTY


def test_a_port_stays_until_its_last_subsystem_goes(tmp_path: Path) -> None:
    nvmet = fake_nvmet(tmp_path, TCP)
    other = NQN_PREFIX + "lease:" + "c" * 32
    bound(nvmet)
    nvmet.make_subsystem(other, "s")
    nvmet.offer(other)
    nvmet.withdraw(NQN)
    assert nvmet.fs.names(f"{TCP_PORT}/subsystems") == (other,)
    nvmet.withdraw(other)
    assert not nvmet.fs.exists(TCP_PORT)


@pytest.mark.parametrize("addressed", [False, True], ids=["blank", "addressed"])
def test_a_port_left_without_its_mark_is_taken_over(tmp_path: Path, addressed: bool) -> None:
    nvmet = fake_nvmet(tmp_path, TCP)
    nvmet.fs.mkdir(TCP_PORT)
    for attribute, value in TCP.attributes if addressed else ():
        nvmet.fs.write(f"{TCP_PORT}/{attribute}", value)
    bound(nvmet)
    removed(nvmet)
    assert snapshot(tmp_path) == EMPTY


def test_a_foreign_port_under_our_number_is_refused_and_untouched(tmp_path: Path) -> None:
    nvmet = fake_nvmet(tmp_path, TCP)
    nvmet.fs.mkdir(TCP_PORT)
    nvmet.fs.write(f"{TCP_PORT}/addr_trtype", "tcp")
    nvmet.fs.write(f"{TCP_PORT}/addr_traddr", "192.0.2.1")
    before = snapshot(tmp_path)
    nvmet.make_subsystem(NQN, "s")
    with pytest.raises(OSError, match="not ours") as caught:
        nvmet.offer(NQN)
    assert caught.value.errno == errno.EBUSY
    nvmet.withdraw(NQN)
    nvmet.remove_subsystem(NQN)
    assert snapshot(tmp_path) == before


def test_a_foreign_link_to_our_subsystem_stays_and_makes_it_busy(tmp_path: Path) -> None:
    nvmet = fake_nvmet(tmp_path, TCP)
    bound(nvmet)
    nvmet.fs.mkdir("ports/1")
    nvmet.fs.link(f"ports/1/subsystems/{NQN}", f"subsystems/{NQN}")
    nvmet.withdraw(NQN)
    with pytest.raises(OSError, match="busy"):
        nvmet.remove_subsystem(NQN)
    assert nvmet.fs.exists(f"ports/1/subsystems/{NQN}")
    assert not nvmet.fs.names(f"subsystems/{NQN}/namespaces"), "nothing is served any more all the same"


def test_a_listener_gone_from_the_configuration_is_still_withdrawn(tmp_path: Path) -> None:
    bound(fake_nvmet(tmp_path, TCP, Listener("loop")))
    removed(fake_nvmet(tmp_path, TCP))
    assert snapshot(tmp_path) == EMPTY


@pytest.mark.parametrize("name", ["nqn.2014-08.org.example:x", NQN_PREFIX + "../../hosts", NQN_PREFIX, ""])
def test_names_that_are_not_ours_never_become_paths(tmp_path: Path, name: str) -> None:
    nvmet = fake_nvmet(tmp_path, TCP)
    for call in (nvmet.remove_subsystem, nvmet.remove_namespace, nvmet.offer):
        with pytest.raises(LocalMisuse):
            call(name)
    assert snapshot(tmp_path).keys() - EMPTY.keys() <= {TCP_PORT} | {
        n for n in snapshot(tmp_path) if n.startswith(TCP_PORT)
    }


def test_the_probe_says_what_it_could_not_do(tmp_path: Path) -> None:
    assert fake_nvmet(tmp_path / "there", TCP).probe()
    assert snapshot(tmp_path / "there") == EMPTY
    with pytest.raises(Unsupported, match="hosts"):
        Nvmet((TCP,), tmp_path / "missing").probe()


def test_two_listeners_of_one_transport_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(LocalMisuse):
        Nvmet((TCP, TCP), tmp_path)
    with pytest.raises(LocalMisuse):
        Nvmet((Listener("fc"),), tmp_path)
