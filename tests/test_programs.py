"""Programs that are forked run as those that a fresh interpreter runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from textwrap import dedent

import pytest

from ._programs import run

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

PROGRAM = """
    import atexit, json, os, signal, sys, threading

    def end():
        print("at the end", file=sys.stderr)

    if __name__ == "__main__":
        atexit.register(end)
        threading.Timer(0.1, print, ["from a thread"]).start()
        print(json.dumps({
            "arguments": sys.argv[1:], "file": __file__, "folder": os.getcwd(),
            "main": sys.modules["__main__"].__file__, "path": sys.path,
            "environment": {k: v for k, v in os.environ.items() if k.startswith(("OWN", "PYTHON"))},
            "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        }))
        sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("command", [["program.py", "3"], ["-m", "program", "0"]])
def test_it_is_as_in_a_fresh_interpreter(tmp_path, monkeypatch, command):
    (tmp_path / "program.py").write_text(dedent(PROGRAM))
    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": "a:b", "OWN": "1"}}
    monkeypatch.setenv("OWN_OF_PYTEST", "1")
    fresh = subprocess.run([sys.executable, *command], capture_output=True, text=True, **options)
    forked = run(command, **options)
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        fresh.returncode,
        fresh.stdout,
        fresh.stderr,
    )


@pytest.mark.parametrize(
    ("statement", "code", "told"),
    [
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit('wrong')", 1, "wrong"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
    ],
)
def test_how_it_ends_is_told(tmp_path, statement, code, told):
    (tmp_path / "program.py").write_text(statement)
    done = run(["program.py"], cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.strip().endswith(told)
    with pytest.raises(subprocess.CalledProcessError):
        run(["program.py"], cwd=tmp_path, check=True)


def test_random_numbers_differ(tmp_path):
    (tmp_path / "program.py").write_text(
        "import random, numpy, torch\n"
        "print(random.random(), numpy.random.rand(), torch.rand(()).item())"
    )
    both = [run(["program.py"], cwd=tmp_path).stdout.split() for _ in range(2)]
    assert all(one != other for one, other in zip(*both, strict=True))


def test_what_takes_too_long_is_killed_with_its_children(tmp_path):
    (tmp_path / "program.py").write_text(
        "import os, time\nchild = os.fork()\nwhile True:\n    time.sleep(0.01)\n"
        "    open(str(os.getpid()), 'a').write('.')\n"
    )
    with pytest.raises(subprocess.TimeoutExpired):
        run(["program.py"], cwd=tmp_path, timeout=1.0)
    (one, other) = (file for file in tmp_path.iterdir() if file.name != "program.py")
    before = one.stat().st_size, other.stat().st_size
    time.sleep(0.2)
    assert before == (one.stat().st_size, other.stat().st_size)
