"""Messages as values: a class body is the description, instances are frozen tuples of its fields.

    class LeaseFreeParams(Message):
        lease_id: int = u128("the lease to end")

`compiler` turns the description into a decoder, an encoder and a constructor at first use, so that
importing all of the protocol costs little. Instances are tuples (cheap to make, hashable,
unpackable) that only equal others of their own type.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from operator import itemgetter
from typing import Any, ClassVar, Self, dataclass_transform

from fabricbios.errors import LocalMisuse, WireError
from fabricbios.wire import compiler, fields
from fabricbios.wire.fields import Field
from fabricbios.wire.rules import ANY, BY_NAME, Rules, Transport

Buffer = bytes | bytearray | memoryview
PACK_ERRORS = (struct.error, TypeError, ValueError, OverflowError, AttributeError)  # of values that do not fit
Decoder = Callable[[bytes, int, int, Rules], tuple[Any, int]]
Encoder = Callable[[Any, Rules], bytes]


def _first_decode(cls: type[Struct], data: bytes, at: int, end: int, rules: Rules) -> tuple[Any, int]:
    """Stand in for a decoder until it is compiled."""
    return compiler.codec(cls).decode(data, at, end, rules)


def _first_encode(value: Struct, rules: Rules) -> bytes:
    return compiler.codec(type(value)).encode(value, rules)


class _Slotless(type):
    """Gives every class empty slots, so that a value is a tuple and nothing more."""

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any], /, **kwargs: Any) -> Any:
        return super().__new__(mcs, name, bases, {"__slots__": (), **body}, **kwargs)


@dataclass_transform(
    frozen_default=True,
    field_specifiers=(
        fields.u8, fields.u16, fields.u32, fields.u64, fields.i32, fields.u128, fields.boolean, fields.fixed,
        fields.u32s, fields.bytes_, fields.bytes16, fields.str16, fields.text32, fields.text, fields.rest,
        fields.zeros, fields.counted, fields.list_of, fields.list_of_bytes, fields.list8_of, fields.nested,
        fields.choice, fields.tlv_seq, fields.tlvs_in_bytes, fields.tlv_list,
    ),
)  # fmt: skip
class Struct(tuple[Any, ...], metaclass=_Slotless):
    """A described value. ITEMS is everything on the wire in order, FIELDS what the value holds."""

    ITEMS: ClassVar[dict[str, Field]] = {}
    FIELDS: ClassVar[dict[str, Field]] = {}
    LIMIT: ClassVar[str] = ""  # the attribute of Rules that bounds the whole
    TRANSPORT: ClassVar[Transport | None] = None  # whose rules hold if nobody says
    RULES: ClassVar[Rules] = ANY  # these

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = {k: v for k, v in vars(cls).items() if isinstance(v, Field)}
        cls.ITEMS = {**cls.ITEMS, **own}
        cls.RULES = BY_NAME[cls.TRANSPORT]
        cls.FIELDS = {k: v for k, v in cls.ITEMS.items() if k[0] != "_"}
        for place, name in enumerate(cls.FIELDS):
            setattr(cls, name, property(itemgetter(place)))
        # A subclass has other fields: it must not inherit what its base was compiled to.
        cls.__new__ = Struct.__new__  # type: ignore[method-assign]
        cls._decode = classmethod(_first_decode)  # type: ignore[method-assign, assignment]
        cls._encode = staticmethod(_first_encode)  # type: ignore[method-assign]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Replaced by a constructor with the fields as parameters, at first use."""
        compiler.codec(cls)
        return cls.__new__(cls, *args, **kwargs)

    @classmethod
    def unpack(cls, data: Buffer, transport: Transport | Rules | None = None) -> Self:
        """Return the value of one complete message.

        `transport` names the limits that hold, or is them. Raise WireError for anything that is not
        exactly one valid message, bytes left over included.
        """
        if type(data) is not bytes:
            data = _as_bytes(data)
        rules = cls.RULES if transport is None else transport if type(transport) is Rules else _rules(transport)
        value: Self
        value, at = cls._decode(data, 0, len(data), rules)
        if at != len(data):
            raise WireError(f"{len(data) - at} bytes left over after a complete {cls.__name__}", at)
        return value

    @classmethod
    def unpack_prefix(cls, data: Buffer, transport: Transport | Rules | None = None) -> tuple[Self, int]:
        """Return the value that `data` starts with and the number of bytes it took."""
        rules = cls.RULES if transport is None else _rules(transport)
        data = _as_bytes(data)
        return cls._decode(data, 0, len(data), rules)

    def pack(self, transport: Transport | Rules | None = None) -> bytes:
        """Return the bytes. Raise LocalMisuse where a field has a value that the wire cannot carry."""
        rules = self.RULES if transport is None else _rules(transport)
        try:
            return self._encode(self, rules)
        except PACK_ERRORS as e:
            raise LocalMisuse(f"{type(self).__name__} cannot be packed: {e}") from e

    @classmethod
    def _decode(cls, data: bytes, at: int, end: int, rules: Rules) -> tuple[Any, int]:
        """Return the value at `at` and where it stopped."""
        raise NotImplementedError

    @staticmethod
    def _encode(value: Any, rules: Rules) -> bytes:
        """Return the bytes of `value`."""
        raise NotImplementedError

    def complaint(self, rules: Rules) -> str:
        """Return what is wrong across fields, "" if nothing. Decoding and encoding both ask."""
        return ""

    @classmethod
    def decoder(cls) -> Decoder:
        """Return `decode(data, at, end, rules) -> (value, at)`."""
        return compiler.codec(cls).decode

    @classmethod
    def encoder(cls) -> Encoder:
        """Return `encode(value, rules) -> bytes`."""
        return compiler.codec(cls).encode

    @classmethod
    def least(cls) -> int:
        """Return the fewest bytes that a value takes."""
        size = 0
        for field in cls.ITEMS.values():
            if field.tail:
                break
            size += 0 if field.when else field.kind.size
        return size

    @classmethod
    def expect(cls, value: object) -> None:
        """Raise LocalMisuse unless `value` is one of these."""
        if type(value) is not cls:
            raise LocalMisuse(f"{type(value).__name__} where a {cls.__name__} belongs")

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed. Raise LocalMisuse for a name that is no field."""
        if not changes.keys() <= self.FIELDS.keys():
            raise LocalMisuse(f"{type(self).__name__} has no {', '.join(changes.keys() - self.FIELDS.keys())}")
        return tuple.__new__(type(self), [changes.get(n, v) for n, v in zip(self.FIELDS, self, strict=True)])

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in zip(self.FIELDS, self, strict=True))})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), tuple(self))


class Message(Struct):
    """A struct with a type name of its own: what `fabricbios wire` and the registry know."""

    TYPES: ClassVar[dict[str, type[Message]]] = {}

    def __init_subclass__(cls, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not abstract:
            Message.TYPES[type_name(cls.__name__)] = cls


def type_name(class_name: str) -> str:
    """CamelCase to snake_case: LeaseAllocParams -> lease_alloc_params."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", class_name).lower()


def _rules(transport: Transport | Rules) -> Rules:
    if isinstance(transport, Rules):
        return transport
    if transport not in BY_NAME:
        raise LocalMisuse(f"{transport!r} is no transport")
    return BY_NAME[transport]


def _as_bytes(data: Buffer) -> bytes:
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise LocalMisuse(f"{type(data).__name__} where bytes belong")
    return bytes(data)


def _remake(cls: type[Struct], values: tuple[Any, ...]) -> Struct:
    return tuple.__new__(cls, values)
