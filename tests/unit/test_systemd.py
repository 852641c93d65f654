"""The configuration that is shipped beside the units: good as it is, and with every line uncommented."""

from pathlib import Path

import pytest

from fabricbios.daemon import config

SHIPPED = Path(__file__).parents[2] / "systemd" / "fabricbiosd.toml"


def test_as_shipped_it_leases_nothing():
    settings = config.load(SHIPPED, {})
    assert (settings.mem_capacity, tuple(settings.block), tuple(settings.xdp_iface)) == (0, (), ())


@pytest.mark.parametrize("line", [line for line in SHIPPED.read_text().splitlines() if "=" in line])
def test_each_line_is_a_setting(line, tmp_path):
    """A comment that offers a key must offer one that exists, with a value that is taken."""
    copy = tmp_path / "fabricbiosd.toml"
    table = "[policy.default]\n" if line.startswith("max_") else ""
    copy.write_text(table + line.removeprefix("# "))
    config.load(copy, {})
