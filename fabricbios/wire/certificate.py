"""Who vouches for whom: Certificate (wire encoding, "Certificate encoding", D3) and REVOKE_BROADCAST."""

from __future__ import annotations

from fabricbios.wire.description import Message
from fabricbios.wire.fields import U128, fixed, list_of, tlv_list, u64, u128
from fabricbios.wire.tlv import TlvTable, TlvValue

SOURCE = 'wire encoding, "Certificate encoding" and "Revocation broadcast payload"; D3'

CERTIFICATE_EXTENSIONS = TlvTable("certificate extensions", (), narrow=True)


class Certificate(Message):
    """A controller says that `public_key` is `subject`'s, from issued_at until expires_at."""

    subject: int = u128("id of the certified key")
    issuer: int = u128("id of the controller's key")
    issued_at: int = u64("Unix seconds")
    expires_at: int = u64("Unix seconds")
    public_key: bytes = fixed(32, "raw Ed25519 key of the subject")
    extensions: tuple[TlvValue, ...] = tlv_list(CERTIFICATE_EXTENSIONS, "no type is defined yet", default=())
    signature: bytes = fixed(64, "the controller's, over the tag and all fields before", default=bytes(64))

    def in_its_dates(self, now: int) -> bool:
        """True if `now` (Unix seconds) is inside its dates."""
        return self.issued_at <= now < self.expires_at


class RevokeBroadcast(Message):
    """REVOKE_BROADCAST payload, and CAP_REVOKE's result: these tokens of `issuer` are void."""

    issuer: int = u128("the node whose tokens they are")
    token_ids: tuple[int, ...] = list_of(U128, "revoked tokens")
    until: int = u64("Unix seconds after which none of them could be valid anyway")
