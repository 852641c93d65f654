"""QUIC versions: which we speak, and what those are told who speak another.

Of a packet of an unknown version only the invariants may be read (RFC 8999, 5.1): the highest bit, the version and
two connection ids. What follows, and the other bits of the first byte, mean what they will. Ids may be of 255 bytes,
but no version has any above 20, and junk that claims so draws silence, as junk should.
"""

from __future__ import annotations

from aioquic.quic.packet import QuicProtocolVersion, encode_quic_version_negotiation

VERSIONS = (QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2)
LONG_HEADER = 0x80
LONGEST_ID = 20
SMALLEST_INITIAL = 1200  # RFC 9000, 14.1; nothing shorter opens a connection or draws an answer


def negotiation(data: bytes) -> bytes | None:
    """Return the Version Negotiation packet that answers `data`, None where none is due (RFC 9000, 6.1)."""
    if len(data) < SMALLEST_INITIAL or not data[0] & LONG_HEADER:
        return None
    version = int.from_bytes(data[1:5], "big")
    if version == QuicProtocolVersion.NEGOTIATION or version in VERSIONS:
        return None
    end = 6 + data[5]  # at most 261, and the other's length is a byte too: all lies in the datagram
    destination, source = data[6:end], data[end + 1 : end + 1 + data[end]]
    if max(len(destination), len(source)) > LONGEST_ID:
        return None
    return encode_quic_version_negotiation(
        source_cid=destination, destination_cid=source, supported_versions=list(VERSIONS)
    )
