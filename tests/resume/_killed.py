"""Trainings killed while they write a file; forks of one process, as starting takes long.

Run as `python -m tests.resume._killed DIRECTORY`.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from fsspec.implementations.local import LocalFileOpener
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_share import save_compact
from lit_share.compact_files import _file
from lit_share.lab.app._checkpoints import WholeCheckpoints

from ._strategies import STRATEGIES
from ._training import EPOCHS, Lit, fit

# Each epoch writes two files: the epoch's checkpoint, and last.ckpt.
OWN, LAST = 5, 6


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def half_written(opened, data):
    opened.f.write(data[: len(data) // 2])
    opened.f.flush()
    kill()


def half_copied(source, target, **_):
    content = Path(source).read_bytes()
    Path(target).write_bytes(content[: len(content) // 2])
    kill()


def other_filesystem(*_):
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def at_number(number, last, before):
    """A function that calls ``before`` until it is called for the last time."""
    calls = iter(range(1, number + 1))
    return lambda *args, **kwargs: (last if next(calls) == number else before)(*args, **kwargs)


def write(number):
    """Half of the bytes are in a file for them."""
    return patch.object(
        LocalFileOpener, "write", at_number(number, half_written, LocalFileOpener.write)
    )


def move(number):
    """The bytes are written, and not yet where they belong."""
    return patch.object(
        LocalFileOpener, "commit", at_number(number, lambda _: kill(), LocalFileOpener.commit)
    )


def copy(number):
    """Temporary files are on another filesystem, and half of the bytes are copied from there."""
    return patch.multiple(shutil, copyfile=at_number(number, half_copied, shutil.copyfile))


KILLS = {
    "write own": write(OWN),
    "write last": write(LAST),
    "move own": move(OWN),
    "move last": move(LAST),
    "copy own": copy(OWN),
    "copy last": copy(LAST),
}
NAMES = "group_lasso", "soft_tie, then hard"


def train(name, kill_at, folder):
    optimizer, callbacks = STRATEGIES[name]
    saving = ModelCheckpoint(folder / "checkpoints", "{epoch}", save_top_k=-1, save_last=True)
    renamed = (
        patch.object(os, "rename", other_filesystem)
        if kill_at.startswith("copy")
        else nullcontext()
    )
    with renamed, KILLS[kill_at]:
        fit(Lit(optimizer), *callbacks(), saving, epochs=EPOCHS, plugins=[WholeCheckpoints()])


def half_saved(entries, path, metadata):
    _file_save(entries, path, metadata)
    os.truncate(path, path.stat().st_size // 2)
    kill()


_file_save = _file.save_file
COMPACT_KILLS = {
    "write": patch.object(_file, "save_file", half_saved),
    "move": patch.object(Path, "replace", lambda *_: kill()),
}


def save_twice(kill_at, folder):
    """The second time is the last."""
    save_compact(Lit(seeds=(1, 2)), folder / "pair.safetensors")
    with COMPACT_KILLS[kill_at]:
        save_compact(Lit(seeds=(3, 4)), folder / "pair.safetensors")


def folder_of(base, *what):
    return Path(base, " ".join(what))


def fork(function, *what):
    """Whether the function was killed, in a new process."""
    child = os.fork()
    if child:
        return os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    try:
        function(*what)
    finally:
        os._exit(1)


def main(base):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for function, cases in (
        (train, [(name, kill_at) for name in NAMES for kill_at in KILLS]),
        (save_twice, [(kill_at,) for kill_at in COMPACT_KILLS]),
    ):
        for case in cases:
            folder = folder_of(base, *case)
            folder.mkdir()
            if not fork(function, *case, folder):
                sys.exit(f"{case} was not killed")


if __name__ == "__main__":
    main(sys.argv[1])
