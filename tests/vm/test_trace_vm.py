"""The program with the stopwatch on Debian's own 6.12: its verifier takes it, and it tells the same apart."""

import pytest
from vectors.test_bpf_trace import (  # noqa: F401 - collected again, here inside the machine
    loaded,
    rig,
    test_each_op_and_outcome_is_a_series,
    test_it_answers_as_the_program_that_it_stands_in_for,
    test_one_lease_alone,
    test_the_kernel_fills_the_bucket_that_python_names,
)

pytestmark = pytest.mark.vm
