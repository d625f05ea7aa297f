"""Released weights from the web into a cache: resumed, checked, and there whole or not at all."""

import os
from pathlib import Path
from typing import get_args

from gpt2jax import runtime
from gpt2jax.errors import GPT2JaxError
from gpt2jax.fetch import alone, check_mirror, fetch, is_offline
from gpt2jax.progress import Report, bar
from gpt2jax.weights.released import BASES, Publisher, files, preset_of


def default_folder() -> Path:
    """Where downloads are kept: ``weights`` in the cache folder (``$GPT2JAX_CACHE``)."""
    return runtime.cache_folder() / "weights"


def mirror_of(publisher: Publisher) -> str:
    """The base address of a publisher's files: ``$GPT2JAX_MIRROR_OPENAI`` or ``..._HUGGINGFACE``, else its own."""
    return os.environ.get(f"GPT2JAX_MIRROR_{publisher.upper()}") or BASES[publisher]


def cached(name: str, publisher: Publisher | None = None, folder: Path | None = None) -> Path | None:
    """The folder of a model that has been downloaded already, from ``publisher`` or, by default, from any."""
    preset, named = preset_of(name)
    one = publisher or named
    candidates: tuple[Publisher, ...] = (one,) if one else get_args(Publisher)
    for candidate in candidates:
        found = (folder or default_folder()) / candidate / preset
        if found.is_dir() and all((found / file.name).is_file() for file in files(preset, candidate)):
            return found
    return None


def download(
    name: str,
    publisher: Publisher | None = None,
    *,
    folder: Path | None = None,
    mirror: str | None = None,
    offline: bool | None = None,
    progress: Report | bool = True,
) -> Path:
    """The folder of a released model's files, which are downloaded where they are missing.

    A broken download is resumed where it stopped, by this call (three attempts) or a later one. A file appears under
    its name once its size, and its hash where one is known, have been checked.

    Args:
        name: ``gpt2-medium``, ``355M``, ``openai-community/gpt2-medium``.
        publisher: by default the one that ``name`` tells, else ``openai``, whose tensors carry checksums.
        folder: of the cache; default :func:`default_folder`.
        mirror: base address to download from, with the publisher's paths below it; default :func:`mirror_of`.
        offline: raise rather than download; default :func:`gpt2jax.fetch.is_offline`.
        progress: a function to call with bytes done and in all, or whether to draw a bar when stderr is a terminal.

    Raises:
        GPT2JaxError: unknown name, no network, an answer that is not the file, or no space.
    """
    preset, named = preset_of(name)
    publisher = publisher or named or "openai"
    there = cached(name, publisher, folder)
    if there:
        return there
    if is_offline() if offline is None else offline:
        raise GPT2JaxError(
            f"{name}: is not in {folder or default_folder()}, and downloads are off (--offline or GPT2JAX_OFFLINE)"
        )
    target = (folder or default_folder()) / publisher / preset
    base = check_mirror(mirror or mirror_of(publisher))
    try:
        target.mkdir(parents=True, exist_ok=True)
        with alone(target.with_name(f".{preset}.lock")):
            for file in files(preset, publisher):
                if not (target / file.name).is_file():
                    url, path = f"{base}/{file.path}", target / file.name
                    with bar(file.name, progress) as report:
                        fetch(url, path, size=file.size, sha256=file.sha256, md5=file.md5, report=report)
    except OSError as error:
        raise GPT2JaxError(f"{target}: cannot be written ({error.strerror or error})") from None
    return target
