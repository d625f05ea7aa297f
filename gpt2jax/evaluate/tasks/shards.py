"""The loss on the validation split of token shards: FineWeb, OpenWebText, or what `gpt2jax prepare` made of anything.

As training here validates: each shard is cut into windows without overlap, of which each predicts as many tokens as it
reads; what does not fill the last window of a shard is left out. llm.c cuts so, too, but takes the first windows alone;
nanoGPT averages over random ones.
"""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gpt2jax.data.pipeline import Windows, open_split
from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate.figures import Figure, perplexity
from gpt2jax.evaluate.job import Job, Setting
from gpt2jax.evaluate.likelihood import Scored
from gpt2jax.evaluate.rows import Row


def of_folder(folder: Path) -> Callable[[Setting], Iterator[Job]]:
    """The task of the shards in ``folder``."""
    return functools.partial(_jobs, folder)


def _jobs(folder: Path, setting: Setting) -> Iterator[Job]:
    encoding = setting.encoding
    # Shards of other programs do not say whose tokens they are; those that do must agree.
    name = encoding.name if encoding.name != "characters" else "auto"
    windows, _, bytes_per_token = open_split(folder, "validation", setting.window, encoding.n_vocab, name)
    wanted = setting.config.limit
    if wanted is not None and wanted < setting.window:
        raise GPT2JaxError(f"limit: {wanted}: should be at least {setting.window} for {folder}, tokens of a window")
    count = len(setting.first(range(len(windows)), setting.window))
    reduce = functools.partial(
        _figures, task=str(folder), windows=windows, bytes_per_token=bytes_per_token, window=setting.window
    )
    yield Job(str(folder), lambda: _rows(windows, count), count, count * setting.window, reduce, None)


def _rows(windows: Windows, count: int) -> Iterator[Row]:
    for number in range(count):
        window = windows[number]
        yield Row(window if window.ndim == 1 else window[0], 1)


def _figures(
    scored: Iterator[Scored], task: str, windows: Windows, bytes_per_token: float | None, window: int
) -> list[Figure]:
    nll, tokens = 0.0, 0
    for number, one in enumerate(scored):
        read = windows[number]
        taught = np.ones(window) if read.ndim == 1 else read[1, 1:].astype(np.float64)
        nll -= float(np.sum(one.log_probs.astype(np.float64) * taught))
        tokens += int(taught.sum())
    loss = nll / tokens
    details = {"perplexity": perplexity(loss)}
    if bytes_per_token:
        details["bits per byte"] = loss / math.log(2) / bytes_per_token
    return [
        Figure(
            task=task,
            variant="validation loss",
            headline=True,
            metric="loss",
            value=loss,
            protocol=f"windows of {window} without overlap",
            units=tokens,
            unit="tokens",
            tokens=tokens,
            nll=nll,
            details=details,
        )
    ]
