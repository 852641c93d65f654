"""The shipped XDP programs on Debian's own 6.12: its verifier takes them, and the golden answers are the same there."""

import pytest
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
