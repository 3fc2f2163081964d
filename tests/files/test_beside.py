"""Files are there as a whole or not at all, whoever else writes them."""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import suppress

import pytest

from lit_share.files import beside, remove_unfinished, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_exception_leaves_the_file_before_and_nothing_else(tmp_path):
    write_text(tmp_path / "file", "before")
    with suppress(KeyboardInterrupt), beside(tmp_path / "file") as unfinished:
        unfinished.write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "file").read_text() == "before"
    assert names(tmp_path) == ["file"]


def test_the_file_is_the_one_before_until_the_block_ends(tmp_path):
    write_text(tmp_path / "file", "before")
    with beside(tmp_path / "file") as unfinished:
        unfinished.write_text("after")
        assert (tmp_path / "file").read_text() == "before"
    assert (tmp_path / "file").read_text() == "after"


def test_a_full_disk_is_an_error_about_the_file_that_was_asked_for(tmp_path):
    write_text(tmp_path / "file", "before")
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*/file'$"),
        beside(tmp_path / "file") as unfinished,
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(unfinished))
    assert (tmp_path / "file").read_text() == "before"
    assert names(tmp_path) == ["file"]


def test_errors_without_a_number_stay_what_they_are(tmp_path):
    with pytest.raises(OSError, match=r"^of another library$"), beside(tmp_path / "file"):
        raise OSError("of another library")


@pytest.mark.parametrize(
    ("place", "message"),
    [("gone/file", "No such file or directory"), (".", "Is a directory")],
)
def test_a_place_that_cannot_be_written_to(tmp_path, place, message):
    with pytest.raises(OSError, match=message) as error:
        write_text(tmp_path / place, "text")
    assert error.value.filename == str(tmp_path / place)
    assert names(tmp_path) == []


def test_links_and_permissions_stay(tmp_path):
    (tmp_path / "folder").mkdir()
    file, link = tmp_path / "folder" / "file", tmp_path / "link"
    write_text(file, "before")
    file.chmod(0o640)
    link.symlink_to(file)
    write_text(link, "after")
    assert link.is_symlink()
    assert file.read_text() == "after"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_new_files_have_the_permissions_of_all_files(tmp_path):
    (tmp_path / "plain").touch()
    with beside(tmp_path / "file") as unfinished:
        unfinished.chmod(0o600)
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_pipes_are_written_to_directly(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "text")
    reader.join()
    assert read == ["text"]
    assert names(tmp_path) == ["pipe"]


def test_names_as_long_as_a_filesystem_takes(tmp_path):
    name = "n" * 255
    write_text(tmp_path / name, "text")
    assert names(tmp_path) == [name]


def test_two_at_once_are_never_mixed(tmp_path):
    file = tmp_path / "file"
    with beside(file) as first, beside(file) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    # The inner block ends first.
    assert file.read_text() == "first"
    assert names(tmp_path) == ["file"]


def test_what_a_dead_process_left_is_removed_and_nothing_else(tmp_path):
    remove_unfinished(tmp_path / "gone")
    (tmp_path / "mine.tmp").touch()
    unfinished = beside(tmp_path / "file").__enter__()
    remove_unfinished(tmp_path)
    assert not unfinished.exists()
    assert names(tmp_path) == ["mine.tmp"]
