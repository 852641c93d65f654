"""ENROLL_REQUEST: a node that holds a controller key certifies others, after an admin's approval (D3b, D7).

One approval is good for one certificate: whoever is to be certified again has to be approved again, so that a key
which was stolen later, or which was turned away since, does not live on by an approval of long ago.

A stranger may ask for its own key, which TLS has proved: it is listed as pending and refused, as D3 has it,
until `fabricbios trust approve` or the trust directory says yes. Then it gets its Certificate. A trusted peer
with an ADMIN token enrols any key at once: its token is the approval.
"""

from __future__ import annotations

from fabricbios.core.state import Ask, NodeState
from fabricbios.core.token import Scope
from fabricbios.errors import Refused
from fabricbios.model import Instant, Perm, Status, id_of_key
from fabricbios.wire import EnrollRequestParams
from fabricbios.wire.enrolment import issue

_DAY = 86_400


def enroll(state: NodeState, ask: Ask, params: EnrollRequestParams, now: Instant) -> bytes:
    controller = state.setup.controller_key
    if controller is None:
        raise _untrusted(ask) or Refused.of(Status.INVALID_OP, "this node holds no controller key")
    if params.node_id != id_of_key(params.public_key):
        raise _untrusted(ask) or Refused.of(Status.INVALID_ARGS, "that id is not that key's")
    if not _approved(state, ask, params, now):
        _await_approval(state, ask, params, now)
    _spend_approval(state, params.node_id)
    state.audit.note(now, "enrolment.issued", peer=params.node_id)
    return issue(controller, params.public_key, now.unix, now.unix + state.setup.certificate_days * _DAY).pack()


def _untrusted(ask: Ask) -> Refused | None:
    """A stranger learns nothing but that it is one."""
    return None if ask.trusted else Refused.of(Status.INSUFFICIENT_PERM, "this key is not trusted here")


def _approved(state: NodeState, ask: Ask, params: EnrollRequestParams, now: Instant) -> bool:
    if ask.trusted and ask.token:
        state.tokens.verify(ask.token, Scope(Perm.ADMIN, ask.resource_id), ask.peer, now)
        return True
    by_admin = state.approved.get(params.node_id) == params.public_key
    return by_admin or state.trust.is_approved(params.node_id, params.public_key)


def _spend_approval(state: NodeState, node_id: int) -> None:
    """Forget who asked and who said yes, wherever that stands: in memory, in the admin's files, or in both."""
    state.enrolments.pop(node_id)
    state.approved.pop(node_id, None)
    state.trust.spend_approval(node_id)


def _await_approval(state: NodeState, ask: Ask, params: EnrollRequestParams, now: Instant) -> None:
    """List the key for the admin, if there is a right to ask for it, and refuse for now."""
    may_ask = ask.peer.public_key == params.public_key or ask.trusted
    if may_ask and state.enrolments.ask(params.node_id, params.public_key, ask.peer.remote[0]):
        state.audit.note(now, "enrolment.asked", peer=params.node_id)
    raise Refused.of(Status.INSUFFICIENT_PERM, "an admin must approve this enrolment on the node")
