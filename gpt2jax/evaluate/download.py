"""Data sets that are public, from the web into the data folder: resumed, checked, and there whole or not at all."""

import dataclasses
import os
from pathlib import Path

from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate.catalog import Dataset, Release, members
from gpt2jax.evaluate.find import Missing, find
from gpt2jax.fetch import alone, check_mirror, fetch, is_offline
from gpt2jax.progress import Report, bar


@dataclasses.dataclass(frozen=True)
class Downloaded:
    """What a name's files are now."""

    paths: tuple[Path, ...]
    """Files in the data folder: archives stay as they are, since they are read as streams."""
    origins: tuple[str, ...]
    """For each, a line on where it came from and under which licence, or that it was there."""


def download(
    name: str,
    data: Path,
    *,
    mirror: str | None = None,
    offline: bool | None = None,
    progress: Report | bool = True,
) -> Downloaded:
    """Get the files of a data set, or of a group as ``winobias``, that are not in the folder ``data`` yet.

    Args:
        data: made where it is not there.
        mirror: a base address below which the files lie under their own names, tried instead of the publishers';
            default ``$GPT2JAX_MIRROR_DATA``.
        offline: raise rather than download; default :func:`gpt2jax.fetch.is_offline`.
        progress: a function to call with bytes done and in all, or whether to draw a bar when stderr is a terminal.

    Raises:
        GPT2JaxError: unknown name, a data set that is not public, no network, an answer that is not the file, a wrong
            file of that name in the folder, or no space.
    """
    entries = members(name)
    for entry in entries:
        if entry.public is None:
            raise GPT2JaxError(f"{entry.name}: not public, so it can't be downloaded: {entry.elsewhere}")
    base = mirror or os.environ.get("GPT2JAX_MIRROR_DATA")
    base = check_mirror(base) if base else None
    paths, origins = [], []
    try:
        data.mkdir(parents=True, exist_ok=True)
        for entry in entries:
            there = find(entry.name, data)
            if not isinstance(there, Missing):
                paths.append(there.path)
                origins.append(f"{entry.name}: {there.path}: was there")
                continue
            if is_offline() if offline is None else offline:
                raise GPT2JaxError(
                    f"{entry.name}: is not in {data}, and downloads are off (--offline or GPT2JAX_OFFLINE)"
                )
            path, origin = _get(entry, data, base, progress)
            paths.append(path)
            origins.append(f"{entry.name}: {path}: {origin}; licence: {entry.licence}")
    except OSError as error:
        raise GPT2JaxError(f"{data}: cannot be written ({error.strerror or error})") from None
    return Downloaded(tuple(dict.fromkeys(paths)), tuple(origins))


def _get(entry: Dataset, data: Path, base: str | None, progress: Report | bool) -> tuple[Path, str]:
    """Download one release from the first address that has it; its path, and where it is from."""
    release = entry.public
    assert release is not None
    path = data / release.target
    path.parent.mkdir(parents=True, exist_ok=True)
    urls = (f"{base}/{path.name}",) if base else release.urls
    with alone(data / ".download.lock"):
        if path.exists():  # Another process had the lock.
            return path, "was there"
        return path, f"from {_first(urls, path, release, progress)}"


def _first(urls: tuple[str, ...], path: Path, release: Release, progress: Report | bool) -> str:
    errors = []
    for url in urls:
        try:
            with bar(path.name, progress) as report:
                fetch(url, path, size=release.size, sha256=release.sha256, report=report)
            return url
        except GPT2JaxError as error:
            errors.append(str(error))
    raise GPT2JaxError("; ".join(errors))
