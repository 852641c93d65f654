"""Load the shipped programs over a set of maps, and ask one what it would do with a frame."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Mapping

from fabricbios.dataplane.blob import Blob
from fabricbios.dataplane.xdp_layout import CounterRecord
from fabricbios.dataplane.xdp_maps import XdpMaps
from fabricbios.hw import bpf

NAME, LICENCE = "fabricbios", "Apache-2.0"


def load(
    maps: XdpMaps,
    fbmu_port: int,
    fbbu_port: int,
    record: CounterRecord,
    blob: Blob | None = None,
    also: Mapping[str, int] | None = None,
) -> int:
    """Return a descriptor of the program, over these maps, and `also` these, with these ports for constants.

    OSError: EPERM without CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; otherwise the verifier's words are in the message.
    """
    blob = blob or Blob.shipped()
    constants = maps.config(fbmu_port, fbbu_port, record)
    with contextlib.ExitStack() as loaded:
        config = _frozen(constants)
        loaded.callback(os.close, config)
        btf = bpf.btf_load(blob.btf)
        loaded.callback(os.close, btf)
        code = blob.linked({**maps.fds, **(also or {}), "config": config})
        return bpf.prog_load(bpf.Program(NAME, code, LICENCE, btf, blob.functions))


def _frozen(constants: bytes) -> int:
    """Return a map of constants: frozen, so that the verifier reads numbers out of it."""
    fd = bpf.map_create(bpf.MapType.ARRAY, 4, len(constants), 1, bpf.BPF_F_RDONLY_PROG, "fb_config")
    try:
        bpf.map_update(fd, struct.pack("<I", 0), constants)
        bpf.map_freeze(fd)
    except OSError:
        os.close(fd)
        raise
    return fd
