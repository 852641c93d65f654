"""`python -m tests.vm [run | build | shell | command]`: the QEMU test machine by the name of its tests."""

import sys

from vmtest.__main__ import main

sys.exit(main())
