"""One run at a time in a run's folder: RUN/.lock is held by flock for as long as the run lasts.

The system frees the lock of a process that is gone, killed or not: a file that is left behind hinders nobody.
"""

import contextlib
import errno
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from gpt2jax.distributed import all_agree, is_primary
from gpt2jax.errors import GPT2JaxError

try:
    import fcntl
except ImportError:  # On Windows.
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"


@contextlib.contextmanager
def sole_owner(run_dir: Path) -> Iterator[str]:
    """Own a run's folder, which is made if need be. Every process of several must call this; the first takes the lock.

    Yields:
        What to say of it: nothing, or why two runs at once would not be noticed here.

    Raises:
        GPT2JaxError: another run owns it, or it cannot be made or written to.
    """
    made, lock, note, failure = not run_dir.exists(), None, "", None
    try:
        if is_primary():
            lock, note = _take(run_dir)
    except GPT2JaxError as error:
        failure = error
    if not all_agree(failure is None):
        raise failure or GPT2JaxError(f"training.run_dir: {run_dir}: cannot be taken (by the first process)")
    try:
        yield note
    finally:
        if lock is not None:
            with contextlib.suppress(OSError):  # Before it is free: after that, the file could be another's.
                (run_dir / LOCK_FILE).unlink(missing_ok=True)
            os.close(lock)
        if made and is_primary():
            with contextlib.suppress(OSError):  # Unless the run has come to write something.
                run_dir.rmdir()


def _take(run_dir: Path) -> tuple[int | None, str]:
    """The open file that holds the lock, or None and a note where there are no locks."""
    path = run_dir / LOCK_FILE
    while True:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise GPT2JaxError(f"training.run_dir: {run_dir}: cannot be written to ({error.strerror})") from None
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 200).decode(errors="replace").strip() or "another process"
            os.close(lock)
            raise GPT2JaxError(
                f"training.run_dir: {run_dir}: {holder} trains there now: wait for it, or give another"
            ) from None
        except OSError as error:
            os.close(lock)
            path.unlink(missing_ok=True)
            reason = f"its file system has no locks ({error.strerror})"
            return None, f"training.run_dir: {run_dir}: {reason}: two runs at once in it would not be noticed"
        if _is_at(lock, path):
            break
        os.close(lock)  # A run that ended just now has removed this file: another one may be there.
    with contextlib.suppress(OSError):  # A full disk: the lock holds without a name in it.
        os.ftruncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {platform.node()}\n".encode())
    return lock, ""


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
