"""Loopback source addresses, each used once: rate limits by source then see many askers where there is one."""

from __future__ import annotations

import itertools
import os

_numbers = itertools.count(1)


def free_source() -> str:
    n = next(_numbers)
    return f"127.{1 + os.getpid() % 200}.{n >> 8}.{n & 0xFF}"
