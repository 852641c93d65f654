"""What the surroundings of a message allow: limits by transport (D1, D2, D10, D11).

`Rules` travel beside the bytes through every decoder and encoder, so that a limit is checked
before anything is allocated.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

KIB, MIB = 1024, 1024 * 1024
LIST_LIMIT: Final = 4096  # items of one list (D1)
INFLATE_LIMIT: Final = 256 * KIB  # an inflated payload (D2)
MESSAGE_LIMIT: Final = MIB  # one reassembled message (D2)
UDP_FRAME_LIMIT: Final = 1400  # header and signature included (D2)
NO_LIMIT: Final = 1 << 40

Transport = Literal["udp", "quic"]


class Rules(NamedTuple):
    """Limits that one message is judged by. `transport` is None where no transport's rules hold."""

    transport: Transport | None
    bytes: int  # longest `bytes` field (D1)
    frame: int  # longest frame (D2)
    datagram: int  # longest FBMU, FBBU or FBMK message, header included (D10, D11)
    block_size: int = 512  # FBBU (D10)


ANY: Final = Rules(None, 16 * MIB, NO_LIMIT, NO_LIMIT)
UDP: Final = Rules("udp", 64 * KIB, UDP_FRAME_LIMIT, 1472)
UDP6: Final = Rules("udp", 64 * KIB, UDP_FRAME_LIMIT, 1452)
QUIC: Final = Rules("quic", 16 * MIB, NO_LIMIT, MIB)

BY_NAME: Final[dict[str | None, Rules]] = {None: ANY, "udp": UDP, "quic": QUIC}
