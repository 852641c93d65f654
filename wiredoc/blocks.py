"""Hand-written pages with generated parts: what stands between `<!-- begin: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re

from wiredoc.conversation import BLOCKS

_BLOCK = re.compile(r"(<!-- begin: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """Return the page with every block made anew. KeyError for one that nobody makes."""
    return _BLOCK.sub(lambda found: found[1] + BLOCKS[found[2]]() + found[3], page)
