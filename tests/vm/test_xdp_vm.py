"""The shipped XDP programs on Debian's own 6.12: its verifier takes them, and the golden answers are the same there."""

import pytest
from vectors.test_bpf_block import (  # noqa: F401 - likewise
    test_a_lease_that_is_over_is_refused_here_where_nobody_has_the_socket,
    test_a_lease_that_is_over_is_the_servers_to_refuse_while_it_has_the_socket,
    test_what_is_forged_is_dropped_and_the_rest_left_as_it_came,
)
from vectors.test_bpf_fbmu import (  # noqa: F401 - collected again, here inside the machine
    _fresh,
    rig,
    test_a_golden_bad_question_moves_no_byte,
    test_a_golden_question_draws_the_golden_answer,
)
from xdp_rig import XdpRig

pytestmark = pytest.mark.vm


def test_the_verifier_takes_the_shipped_programs() -> None:
    XdpRig().close()
