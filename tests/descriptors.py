"""What this process has open, for tests that show that nothing is left open.

Compared as sets (`open_descriptors() <= before`), not by their number: what earlier tests left to the garbage
collector, or to threads that end, may be closed meanwhile.
"""

import gc
import os


def open_descriptors() -> set[int]:
    gc.collect()
    return {int(number) for number in os.listdir("/proc/self/fd")}
