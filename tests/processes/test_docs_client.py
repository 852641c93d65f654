"""Every example of docs/client.md runs as it stands, against a real node."""

import re
from contextlib import closing
from pathlib import Path

import pytest
from node_rig import NodeProcess

from fabricbios.transport import Identity

pytestmark = pytest.mark.timeout(120)
PAGE = Path(__file__).parents[2] / "docs/client.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    directory = tmp_path_factory.mktemp("node")
    with closing(NodeProcess(directory, "--drivers", "simulated")) as process:
        process.start()
        process.run(lambda client: client.cap_request(), Identity.load_or_create(directory / "me"))  # the claim
        yield {"HOST": "127.0.0.1", "PORT": process.port, "IDENTITY": directory / "me"}


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example(names, number, capsys):
    exec(compile(EXAMPLES[number], f"{PAGE.name}, example {number + 1}", "exec"), dict(names))
    said = capsys.readouterr().out
    assert ("print(" in EXAMPLES[number]) == bool(said)
    assert "something else" not in said


def test_there_are_examples():
    assert len(EXAMPLES) >= 5
