"""What a slow device makes wait is bounded, whoever goes on asking: each request may carry 64 KiB (D1)."""

import pytest

from fabricbios.core import state
from fabricbios.errors import FabricError
from fabricbios.model import Op, Status
from fabricbios.ports import StreamPeer
from fabricbios.testing import FakeAnswer, FakeNode
from fabricbios.wire import (
    CapRevokeParams,
    LeaseAllocParams,
    LeaseAttachParams,
    LeaseCpuIsolation,
    LeaseRevokeParams,
    LeaseRevokeResult,
    RawTlv,
    SchedulerFenceSetParams,
    Token,
)


def answered(node: FakeNode, peer: StreamPeer) -> FakeAnswer | None:
    try:
        return node.answer(peer)
    except FabricError:
        return None


def test_so_many_may_wait_for_the_end_of_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MAX_ASKERS", 3)
    node = FakeNode()
    lease = node.alloc(1)
    asked = [node.send(1, Op.LEASE_REVOKE, LeaseRevokeParams(lease.lease_id, 0)) for _ in range(4)]
    said = [answered(node, peer) for peer in asked]
    assert said[:3] == [None] * 3
    assert said[3] is not None
    assert said[3].status is Status.RESOURCE_BUSY
    node.run()
    assert [LeaseRevokeResult.unpack(node.answer(peer).result).outcome for peer in asked[:3]] == [0] * 3


def test_so_many_may_wait_for_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MAX_RECORDING", 1)
    node = FakeNode()
    token, other = node.token(1), node.token(1)
    first = node.send(1, Op.SCHEDULER_FENCE_SET, SchedulerFenceSetParams(5), token=token)
    revoke = CapRevokeParams(Token.unpack(other).token_id, 60)
    assert node.ask(1, Op.CAP_REVOKE, revoke, token=token, run=False).status is Status.RESOURCE_BUSY
    assert node.ask(1, Op.LEASE_LIST_ACTIVE, token=other, run=False).status is Status.INVALID_TOKEN  # but it holds
    node.run()
    assert node.answer(first).status is Status.OK
    assert node.ask(1, Op.CAP_REVOKE, revoke, token=token).status is Status.OK


def test_what_waits_holds_no_token() -> None:
    node = FakeNode()
    lease, token = node.alloc(1), node.token(1)
    node.send(1, Op.LEASE_ALLOC, LeaseAllocParams(60, 0, 2, 8192), token=token)
    node.send(1, Op.LEASE_ATTACH, LeaseAttachParams(lease.lease_id), token=token)
    node.send(1, Op.SCHEDULER_FENCE_SET, SchedulerFenceSetParams(5), token=token)
    kept = node.node._state
    waiting = [ask for asks in kept.askers.values() for ask in asks] + [r.ask for r in kept.recording.values()]
    jobs = [job.asker for held in node.node.leases() for job in held._jobs or ()]
    assert [ask.token for ask in waiting + jobs] == [b""] * 3


def test_one_peer_may_have_so_much_waiting_for_the_journal_and_another_as_much_again() -> None:
    node = FakeNode()
    tokens = {who: node.token(who) for who in (1, 2)}
    revoked = (CapRevokeParams(token_id, 60) for token_id in range(1, 99))
    asked = [node.send(1, Op.CAP_REVOKE, next(revoked), token=tokens[1]) for _ in range(state.MAX_RECORDING_BY)]
    assert node.ask(1, Op.CAP_REVOKE, next(revoked), token=tokens[1], run=False).status is Status.RESOURCE_BUSY
    other = node.send(2, Op.CAP_REVOKE, next(revoked), token=tokens[2])
    node.run()
    assert {node.answer(peer).status for peer in [*asked, other]} == {Status.OK}


def test_a_lease_keeps_so_many_intents_and_what_is_unknown_does_not_count() -> None:
    node, intent = FakeNode(), LeaseCpuIsolation(class_=0)

    def alloc(*tlvs: object) -> Status:
        return node.ask(1, Op.LEASE_ALLOC, LeaseAllocParams(60, 0, 2, 8192, tlvs), token=node.token(1)).status

    unknown = RawTlv(0x0999, b"?")
    assert alloc(*[intent] * 64, *[unknown] * 9) is Status.OK
    assert alloc(*[intent] * 65) is Status.INVALID_ARGS
