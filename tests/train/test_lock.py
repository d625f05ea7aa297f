"""Two runs at once in one folder: the second is refused, a killed one hinders nobody, nothing is left behind."""

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt2jax.errors import GPT2JaxError
from gpt2jax.train import lock
from gpt2jax.train.lock import LOCK_FILE, sole_owner
from gpt2jax.train.loop import train
from tests.train.test_loop import make

HOLD = """
import sys
from pathlib import Path
from gpt2jax.train.lock import sole_owner
with sole_owner(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_is_refused_until_the_first_is_killed(corpus: str, tmp_path: Path) -> None:
    run, config = tmp_path / "run", make(corpus, tmp_path / "run", steps=1)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(GPT2JaxError) as caught:
            train(config)
        assert str(caught.value) == (
            f"training.run_dir: {run}: process {holder.pid} on {platform.node()} trains there now: wait for it, or"
            " give another"
        )
        assert {path.name for path in run.iterdir()} == {LOCK_FILE}
        holder.kill()
    assert (run / LOCK_FILE).exists()  # The killed one's, which hinders nobody.
    assert train(config).step == 1
    assert not (run / LOCK_FILE).exists()


def test_a_folder_is_owned_once_and_left_as_it_was(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "run"
    with sole_owner(run):
        assert (run / LOCK_FILE).read_text() == f"process {os.getpid()} on {platform.node()}\n"
        with pytest.raises(GPT2JaxError, match="trains there now"), sole_owner(run):
            pass
        assert (run / LOCK_FILE).exists()  # What was refused has not taken it away.
        with sole_owner(tmp_path / "other"):
            (tmp_path / "other" / "log").write_text("")
    assert not run.exists()
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["log"]


def test_a_file_that_is_removed_before_it_is_locked_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking, the run before may end, and yet another begin with a file of its own."""
    of, opened = lock.fcntl.flock, []

    def flock(file: int, how: int) -> None:
        of(file, how)
        opened.append(file)
        if len(opened) == 1:
            (tmp_path / LOCK_FILE).unlink()

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with sole_owner(tmp_path):
        assert len(opened) == 2
        with pytest.raises(GPT2JaxError, match="trains there now"), sole_owner(tmp_path):
            pass


def test_where_there_are_no_locks_a_run_goes_on_and_says_so(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch:
        patch.setattr(lock.fcntl, "flock", flock)
        assert train(make(corpus, tmp_path / "run", steps=1)).step == 1
    assert "its file system has no locks (No locks available): two runs at once in it" in capsys.readouterr().out
    assert not (tmp_path / "run" / LOCK_FILE).exists()
    train(make(corpus, tmp_path / "run", steps=1))
    assert "no locks" not in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = rf"training\.run_dir: {tmp_path}/file/run: cannot be written to \(Not a directory\)"
    with pytest.raises(GPT2JaxError, match=line), sole_owner(tmp_path / "file" / "run"):
        pass
