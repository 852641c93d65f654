"""`given`: what is judged when a key, a clock or a question is known, and what is not when it is not."""

import pytest

from fabricbios.errors import LocalMisuse, WireError
from fabricbios.wire import (
    ANY,
    QUIC,
    UDP,
    Certificate,
    Depth,
    FbbuHello,
    FbmuHello,
    FbmuPing,
    FbmuPong,
    Frame,
    Hello,
    PageRef,
    PageZeroRequest,
    Ping,
    PingResult,
    Pong,
    SolicitRetry,
    Token,
    attenuate,
    mint,
)  # fmt: skip
from fabricbios.wire.circumstances import Given, seal, unseal
from fabricbios.wire.json_form import to_json
from fabricbios.wire.rules import UDP6

KEY = "11" * 32


@pytest.mark.parametrize(
    "given",
    [
        [],
        {"transport": "tcp"},
        {"seed": "xyz"},
        {"seed": 5},
        {"now": "soon"},
        {"now": []},
        {"now": -1},
        {"now_ms": 1 << 64},
        {"peer": 1 << 128},
        {"ip": 5},
        {"ip": 3},
        {"ip": 7},
        {"dp_auth": 256},
        {"block_size": 0},
        {"block_size": 1 << 32},
        {"source_port": 65536},
        {"minute": 1 << 64},
    ],
)
def test_what_is_given_must_make_sense(given):
    with pytest.raises(LocalMisuse):
        Given.of(given)


def test_the_bounds_of_what_is_given_are_inside():
    given = {"now": (1 << 64) - 1, "peer": "f" * 32, "ip": 6, "dp_auth": 255, "block_size": 1, "source_port": 65535}
    found = Given.of({**given, "minute": 0})
    assert (found.now, found.peer, found.ip) == ((1 << 64) - 1, (1 << 128) - 1, 6)
    assert (found.dp_auth, found.block_size, found.source_port, found.minute) == (255, 1, 65535, 0)


def test_limits_go_by_transport_and_address_family():
    assert Given().rules(FbmuPing) == UDP
    assert Given(ip=6).rules(FbmuPing) == UDP6
    assert Given(ip=4).rules(FbmuPing) == UDP
    assert Given(transport="quic", ip=6).rules(FbmuPing) == QUIC
    assert Given(ip=6).rules(Token) == ANY
    assert Given(block_size=4096).rules(FbmuPing) == UDP._replace(block_size=4096)


def test_what_a_message_has_no_use_for_is_ignored():
    given = Given(seed=bytes(32), issuer_seed=bytes(32), token_key=bytes(32), parent=b"", dp_key=bytes(32), dp_auth=2)
    assert seal(PingResult, {"uptime_secs": 1}, given) == PingResult(1).pack()
    unsigned = Frame(0x10, 0, 1, 2, 3, b"")
    assert seal(Frame, to_json(unsigned), given) == unsigned.pack()
    draft = Certificate(subject=1, issuer=2, issued_at=10, expires_at=20, public_key=bytes(32))
    assert seal(Certificate, to_json(draft), Given(seed=bytes(32))) == draft.pack()


def test_a_greeting_is_for_the_header_s_lease():
    for cls in (FbmuHello, FbbuHello):
        assert cls(1, 2, 3, Hello(2)).pack()
        with pytest.raises(LocalMisuse, match="another lease"):
            cls(1, 2, 3, Hello(4)).pack()
        wrong = cls(1, 2, 3, Hello(2)).pack()[:-16] + (4).to_bytes(16, "big")
        with pytest.raises(WireError, match="another lease"):
            cls.unpack(wrong)


def test_a_page_request_is_for_the_header_s_lease():
    assert PageZeroRequest(1, 2, 3, PageRef(2, 5)).pack()
    with pytest.raises(LocalMisuse, match="not the header's"):
        PageZeroRequest(1, 2, 3, PageRef(4, 5)).pack()


def test_keys_for_people_are_ignored():
    assert Given.of({"hardware": [["CPU", "cpu0"]]}) == Given()


def test_without_a_key_nothing_is_verified():
    data = FbmuPing(1, 2, 3, Ping()).pack()
    assert unseal(FbmuPing, data, Given()).nonce == 3
    with pytest.raises(WireError, match="auth_tag"):
        unseal(FbmuPing, data, Given.of({"dp_key": KEY, "dp_auth": 2}))
    assert unseal(FbmuPing, data, Given.of({"dp_key": KEY, "dp_auth": 2, "transport": "quic"})).nonce == 3


@pytest.mark.parametrize("mode", range(4))
def test_question_and_answer(mode):
    given = {"dp_key": KEY, "dp_auth": mode}
    asked = seal(FbmuPing, to_json(FbmuPing(1, 2, 3, Ping())), Given.of(given))
    known = Given.of({**given, "question": asked.hex()})
    answer = seal(FbmuPong, to_json(FbmuPong(1, 2, 3, Pong())), known)
    assert unseal(FbmuPong, answer, known) == FbmuPong(1, 2, 3, Pong(), auth_tag=answer[40:56])
    assert (answer[40:56] == asked[40:56]) == (mode == 0)
    for other in (FbmuPong(2, 2, 3, Pong()), FbmuPong(1, 3, 3, Pong()), FbmuPong(1, 2, 4, Pong())):
        with pytest.raises(WireError, match="repeats"):
            unseal(FbmuPong, seal(FbmuPong, to_json(other), known), known)


@pytest.mark.parametrize("given", [{"dp_key": KEY}, {"dp_auth": 2}, {"dp_auth": 1, "dp_key": None}])
def test_a_key_without_a_mode_verifies_nothing(given):
    data = FbmuPing(1, 2, 3, Ping()).pack()
    assert unseal(FbmuPing, data, Given.of(given)).nonce == 3
    assert seal(FbmuPing, to_json(FbmuPing(1, 2, 3, Ping())), Given.of(given)) == data


def test_mode_0_repeats_the_question_s_tag_without_any_key():
    asked = FbmuPing(1, 2, 3, Ping(), auth_tag=b"t" * 16).pack()
    known = Given.of({"dp_auth": 0, "question": asked.hex()})
    assert unseal(FbmuPong, FbmuPong(1, 2, 3, Pong(), auth_tag=b"t" * 16).pack(), known)
    with pytest.raises(WireError, match="auth_tag"):
        unseal(FbmuPong, FbmuPong(1, 2, 3, Pong()).pack(), known)


def test_an_unsigned_frame_holds_on_quic_alone():
    data = Frame(0x10, 0, 1, 2, 3, b"").pack()
    assert unseal(Frame, data, Given.of({"public_key": KEY, "transport": "quic"})).sender == 3
    for given in ({"public_key": KEY}, {"public_key": KEY, "transport": "udp"}):
        with pytest.raises(WireError, match="signature"):
            unseal(Frame, data, Given.of(given))


def test_bad_keys_and_questions_are_misuse():
    data = FbmuPing(1, 2, 3, Ping()).pack()
    for given in ({"dp_key": "11", "dp_auth": 2}, {"dp_key": KEY, "dp_auth": 4}, {"question": "00"}):
        with pytest.raises(LocalMisuse):
            unseal(FbmuPing, data, Given.of(given))


def test_a_seed_is_32_bytes():
    frame = Frame(0x10, 1, 1, 2, 3, b"", signature=bytes(64))
    with pytest.raises(LocalMisuse, match="seed"):
        seal(Frame, to_json(frame), Given(seed=bytes(31)))


def test_a_parent_only_becomes_narrower():
    parent = mint(Token(token_id=1, issuer=2, perms=33, issued_at=1, expires_at=2), bytes(32))
    with pytest.raises(LocalMisuse, match="parent"):
        seal(Token, to_json(parent.replace(perms=35)), Given(parent=parent.pack()))


def test_a_narrowed_token_needs_no_mac_in_its_fields():
    parent = mint(Token(token_id=1, issuer=2, perms=33, issued_at=1, expires_at=2), bytes(32))
    narrow = attenuate(parent, Depth(1))
    wish = to_json(narrow.replace(mac=bytes(32)))
    assert seal(Token, wish, Given(parent=parent.pack())) == narrow.pack()


def test_a_cookie_is_for_one_address_and_minute():
    known = {"cookie_key": KEY, "source_addr": "00" * 16, "source_port": 5, "minute": 6}
    with pytest.raises(WireError, match="cookie"):
        unseal(SolicitRetry, SolicitRetry(bytes(32)).pack(), Given.of(known))
    assert unseal(SolicitRetry, SolicitRetry(bytes(32)).pack(), Given.of({**known, "minute": None})).cookie == bytes(32)
