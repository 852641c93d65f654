"""What XDP an interface's driver says it can do: the kernel's own answer, asked without touching the interface.

Source: Documentation/netlink/specs/netdev.yaml (generic netlink family "netdev", Linux 6.3). Trying is no option for
an inventory: attaching a program resets the queues of many cards.
"""

from __future__ import annotations

import socket
from enum import IntFlag

from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

NETDEV_CMD_DEV_GET = 1


class XdpAct(IntFlag):
    """enum netdev_xdp_act. BASIC is XDP_PASS, DROP, TX and ABORTED: native mode."""

    BASIC = 1
    REDIRECT = 2
    NDO_XMIT = 4
    XSK_ZEROCOPY = 8
    HW_OFFLOAD = 16
    RX_SG = 32
    NDO_XMIT_SG = 64


class _Device(genlmsg):
    prefix = "NETDEV_A_DEV_"  # type: ignore[assignment]
    nla_map = (  # type: ignore[assignment]
        ("NETDEV_A_DEV_UNSPEC", "none"),
        ("NETDEV_A_DEV_IFINDEX", "uint32"),
        ("NETDEV_A_DEV_PAD", "none"),
        ("NETDEV_A_DEV_XDP_FEATURES", "uint64"),
        ("NETDEV_A_DEV_XDP_ZC_MAX_SEGS", "uint32"),
    )


def features() -> dict[str, XdpAct]:
    """Return name -> features of every interface of this network namespace; {} where the kernel does not tell."""
    try:
        listed = _ask()
    except (NetlinkError, OSError):
        return {}
    names = dict(socket.if_nameindex())
    return {names[index]: XdpAct(flags & int(~XdpAct(0))) for index, flags in listed if index in names}


def describe(flags: XdpAct) -> str:
    """Return "native" with what comes beside it, or "generic only"."""
    if XdpAct.BASIC not in flags:
        return "generic only"
    beside = [
        flag.name.lower()
        for flag in (XdpAct.REDIRECT, XdpAct.XSK_ZEROCOPY, XdpAct.RX_SG)
        if flag in flags and flag.name
    ]
    return ", ".join(["native", *beside])


def _ask() -> list[tuple[int, int]]:
    with GenericNetlinkSocket() as netlink:  # type: ignore[no-untyped-call]
        netlink.bind("netdev", _Device)
        question = _Device()  # type: ignore[no-untyped-call]
        question["cmd"], question["version"] = NETDEV_CMD_DEV_GET, 1
        answers = netlink.nlm_request(question, msg_type=netlink.prid, msg_flags=NLM_F_REQUEST | NLM_F_DUMP)
        return [(a.get_attr("NETDEV_A_DEV_IFINDEX"), a.get_attr("NETDEV_A_DEV_XDP_FEATURES") or 0) for a in answers]
