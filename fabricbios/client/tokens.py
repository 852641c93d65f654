"""Tokens fetched when an op needs one, kept until they near their end (D7)."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from fabricbios.client.control import Control
from fabricbios.model import Op, Perm
from fabricbios.wire import CapRequestParams, Token

TTL_SECONDS = 300
FRESH = 0.8  # of its life; clocks differ, so its length is counted here and its dates are not compared


class Held(NamedTuple):
    data: bytes
    stale_at: float  # loop time


class Tokens:
    """A cache by permissions and resource. `epoch` is the scheduler epoch sent along, None for none."""

    def __init__(self, control: Control, epoch: int | None = None) -> None:
        self.epoch = epoch
        self._control = control
        self._held: dict[tuple[int, int], Held] = {}

    async def get(self, perms: Perm, resource_id: int = 0) -> bytes:
        """Return a token with all of `perms`, from the cache or a CAP_REQUEST. Raises Refused."""
        now = asyncio.get_running_loop().time()
        held = self._held.get((perms, resource_id))
        if held is None or now >= held.stale_at:
            token = await self.request(perms, TTL_SECONDS, resource_id)
            life = token.expires_at - token.issued_at
            held = self._held[perms, resource_id] = Held(token.pack(), now + FRESH * life)
        return held.data

    async def request(self, perms: Perm, ttl: int, resource_id: int = 0, lease_id: int | None = None) -> Token:
        """Ask for a token of our own; the node grants what of `perms` its policy allows."""
        epoch = 0 if self.epoch is None and lease_id is not None else self.epoch
        params = CapRequestParams(
            perms=perms, ttl_secs=ttl, audience=self._control.client_id, epoch=epoch, lease_id=lease_id
        )
        return Token.unpack(await self._control.call(Op.CAP_REQUEST, params.pack(), resource_id))

    def forget(self) -> None:
        """Drop them all: one was refused, revoked or outlived its fence."""
        self._held.clear()
