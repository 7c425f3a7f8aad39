"""The attackers of tests/attack end with the process that started them."""

import subprocess
import sys

#: It starts a child that would sleep for ten minutes.
STARTER = """
import subprocess, sys
child = "from meshlab.attack.base import end_with_starter as e; e(); print('there', flush=True); "
child += "import time; time.sleep(600)"
subprocess.run([sys.executable, "-c", child])
"""


def test_an_attacker_ends_when_its_starter_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "there\n"
        starter.kill()
        # The child holds the same pipe, so the end of the pipe is the end of the child.
        output, _ = starter.communicate(timeout=60)
    assert output == ""
