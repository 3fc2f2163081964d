"""One process at a time works in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from lit_share.files import LOCK_FILE, InUseError, _lock, locked


def refused(folder):
    with pytest.raises(InUseError) as error, locked(folder, "another"):
        pass
    return str(error.value)


def test_the_message_says_who_and_since_when(tmp_path):
    with locked(tmp_path, "a sweep"):
        message = refused(tmp_path)
    assert message.startswith(f"{tmp_path}: a sweep works there since 20")
    assert message.endswith(f", process {os.getpid()} on {socket.gethostname()}")


def test_it_is_free_after_the_block_also_after_an_exception(tmp_path):
    with pytest.raises(ArithmeticError), locked(tmp_path, "a sweep"):
        raise ArithmeticError
    with locked(tmp_path, "another"):
        assert "another works there" in refused(tmp_path)


@pytest.mark.parametrize("content", ["", '{"work": "a', "[]", "null", "{}"])
def test_a_damaged_file_is_no_obstacle(tmp_path, content):
    (tmp_path / LOCK_FILE).write_text(content)
    with locked(tmp_path, "a sweep"):
        (tmp_path / LOCK_FILE).write_text(content)
        assert refused(tmp_path) == f"{tmp_path}: another process works there"


HOLDS = """
import os, sys, time
from lit_share.files import locked
with locked(sys.argv[1], "a sweep"):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


def test_a_killed_process_holds_nothing_nor_does_what_it_forked(tmp_path):
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        assert f"process {process.pid} on" in refused(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.kill(child, 0)
        # The fork may not have come to release it.
        for _ in range(100):
            try:
                with locked(tmp_path, "another"):
                    break
            except InUseError:
                time.sleep(0.05)
        else:
            raise AssertionError
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("number", sorted(_lock._HAS_NONE))
def test_a_filesystem_without_locks_is_said(tmp_path, monkeypatch, caplog, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path, "a sweep"), locked(tmp_path, "another"):
        pass
    assert f"{tmp_path} is on a filesystem without locks" in caplog.text


def test_other_errors_are_errors(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"), locked(tmp_path, "a sweep"):
        pass
    with pytest.raises(FileNotFoundError), locked(tmp_path / "gone", "a sweep"):
        pass
