"""From tasks and a model to figures: what is there, what it will take, and then one job after the other."""

import collections
import contextlib
import dataclasses
import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from gpt2jax import runtime
from gpt2jax.config import SIZES, EvaluationConfig, MeshConfig, ModelConfig
from gpt2jax.distributed import all_agree
from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate.figures import Evaluation, Figure
from gpt2jax.evaluate.find import CHANGED, Found, Missing, find
from gpt2jax.evaluate.job import Job, Setting
from gpt2jax.evaluate.journal import Journal
from gpt2jax.evaluate.likelihood import Scorer
from gpt2jax.evaluate.rows import Row
from gpt2jax.evaluate.stop_words import stop_tokens
from gpt2jax.evaluate.tasks import Task, select
from gpt2jax.presets import PRESETS
from gpt2jax.progress import counter
from gpt2jax.tokenizer import end_of_text
from gpt2jax.weights.sources import open_weights
from gpt2jax.weights.weights import Weights

# Tokens that are read to find out how fast a job goes, and no more of it than this part.
TRIAL_TOKENS = 16_384
TRIAL_PART = 20


@dataclasses.dataclass(frozen=True)
class Files:
    """The data of the tasks that were asked for, as far as it is there."""

    tasks: tuple[tuple[Task, tuple[Found, ...]], ...]
    missing: tuple[str, ...]
    """Of each task that has none: what to get, and where."""


def gather(config: EvaluationConfig) -> Files:
    """Find the files of all tasks before a model is read.

    Raises:
        GPT2JaxError: no such task or folder; a file that is not what its name says.
    """
    there, missing = [], []
    for task in select(config.tasks):
        found = [find(name, Path(config.data), allow_changed=config.allow_changed_data) for name in task.datasets]
        absent = [str(one) for one in found if isinstance(one, Missing)]
        missing += absent
        if not absent:
            there.append((task, tuple(one for one in found if isinstance(one, Found))))
    return Files(tuple(there), tuple(missing))


class Run:
    """A model and its jobs."""

    def __init__(self, model: str, config: EvaluationConfig, mesh: MeshConfig | None, files: Files) -> None:
        """Read the model, and make the rows of all jobs; nothing is computed. Every process of several must call this.

        Raises:
            GPT2JaxError: no such model, one without vocabulary; data that is damaged, or other data in each process.
        """
        weights = open_weights(model)
        self.model, self.config, self.missing = model, config, files.missing
        self.setting = setting = _setting(weights, config, model)
        self.sizes = {name: int(getattr(weights.config, name)) for name in SIZES if name != "layer_norm_epsilon"}
        self.preset = preset_of(weights.config)
        self.jobs: list[Planned] = []
        for task, found in files.tasks:
            own = dataclasses.replace(setting, cut=[])
            made = list(task.jobs(*found, own))
            self.jobs += [Planned.of(job, limited=bool(own.cut)) for job in made]
        _check_alike(self.jobs)
        options = {} if config.batch_tokens is None else {"batch_tokens": config.batch_tokens}
        banned = stop_tokens(setting.encoding)
        self.scorer = Scorer.load(weights, mesh, compute_dtype=config.compute_dtype, banned=banned, **options)

    def expected(self) -> list[float]:
        """Seconds that each job will take, without compiling, from a small part of it that is scored twice."""
        return [job.forward_tokens / self._speed(job) for job, *_ in self.jobs]

    def _speed(self, job: Job) -> float:
        rows = list(_some(job, min(TRIAL_TOKENS, job.forward_tokens // TRIAL_PART)))
        for _ in range(2):
            began = time.perf_counter()
            collections.deque(self.scorer.score_all(rows), maxlen=0)
        return sum(len(row.tokens) - 1 for row in rows) / (time.perf_counter() - began)

    def figures(self, journals: Path, command: str = "") -> Iterator[list[Figure]]:
        """The figures of one job after the other.

        Args:
            journals: the folder for what has been scored, from which an evaluation that was stopped goes on.
            command: for the figures.
        """
        devices = self.scorer.place.mesh.devices
        device = f"{devices.size} x {devices.flat[0].device_kind}, {self.config.compute_dtype}"
        for planned in self.jobs:
            job, began = planned.job, time.perf_counter()
            journal = Journal(journals / safe(job.name))
            with (
                counter(f"Scoring {job.name}", job.forward_tokens) as progress,
                contextlib.closing(self.scorer.score_all(job.rows(), journal, progress)) as scored,
            ):
                found = job.reduce(scored)
            seconds = time.perf_counter() - began
            notes = ("the time is of what the last start scored alone",) if journal.restored else ()
            made = [
                dataclasses.replace(
                    figure, forward_tokens=job.forward_tokens, seconds=seconds, command=command, device=device
                )
                for figure in found
            ]
            yield [planned.complete(figure, notes) for figure in made]

    def clear(self, journals: Path) -> None:
        """Remove what :meth:`figures` has left there for its jobs."""
        for job, *_ in self.jobs:
            Journal(journals / safe(job.name)).clear()

    def evaluation(self, figures: list[Figure]) -> Evaluation:
        """``figures`` with all that is to be said of the model."""
        return Evaluation(
            model=self.model,
            sizes=self.sizes,
            preset=self.preset,
            digest=self.scorer.fingerprint[:16],
            versions=runtime.versions(),
            figures=tuple(figures),
            missing=self.missing,
        )


class Planned(NamedTuple):
    """A job, and what is to be said of its data: the data itself is in its rows."""

    job: Job
    limited: bool
    data: str
    sha256: str
    units: int | None
    """U of the published file, where it is known and these are its units."""
    notes: tuple[str, ...]

    @classmethod
    def of(cls, job: Job, limited: bool) -> Self:
        if job.found is None:
            return cls(job, limited, "", "", None, ())
        entry = job.found.dataset
        bare = dataclasses.replace(job, found=None)
        name = job.found.member or job.found.path.name
        return cls(bare, limited, name, job.found.sha256, entry.units, job.found.notes)

    def complete(self, figure: Figure, notes: tuple[str, ...]) -> Figure:
        """``figure`` with what it was made of. One of other data than the published stands beside no other."""
        notes = (*figure.notes, *self.notes, *notes)
        marks = []
        if self.limited:
            marks.append("of the beginning alone (limit)")
        elif figure.headline and self.units and figure.units != self.units:
            marks.append(f"of other data: the published has {self.units:,} {figure.unit}")
        if any(note.startswith(CHANGED) for note in self.notes):
            marks.append("of a changed file")
        if marks:
            figure = dataclasses.replace(figure, column=None, protocol="; ".join([*marks, figure.protocol]))
        return dataclasses.replace(figure, notes=notes, data=self.data, sha256=self.sha256)


def _check_alike(jobs: list[Planned]) -> None:
    told = repr([(one.job.name, one.job.count, one.job.forward_tokens, one.sha256) for one in jobs])
    own = np.frombuffer(hashlib.sha256(told.encode()).digest(), np.uint32)
    if jax.process_count() > 1 and not all_agree(bool((multihost_utils.broadcast_one_to_all(own) == own).all())):
        raise GPT2JaxError("data: should be the same files for all processes")


def _setting(weights: Weights, config: EvaluationConfig, model: str) -> Setting:
    encoding = weights.origin.encoding
    if encoding is None:
        raise GPT2JaxError(f"{model}: cannot read text: {weights.origin.vocabulary_note}")
    window = min(config.window, weights.config.n_ctx)
    if config.stride > window:
        raise GPT2JaxError(f"stride: {config.stride}: should be at most the window, {window}")
    return Setting(config, encoding, window, end_of_text(encoding))


def preset_of(config: ModelConfig) -> str | None:
    """The released size that these are, vocabulary and context included."""
    for name, sizes in PRESETS.items():
        if all(getattr(config, key) == value for key, value in sizes.items()):
            whole = ModelConfig()
            return name if (config.n_vocab, config.n_ctx) == (whole.n_vocab, whole.n_ctx) else None
    return None


def _some(job: Job, tokens: int) -> Iterator[Row]:
    """Rows from the beginning with so many tokens, one at least."""
    for row in job.rows():
        yield row
        tokens -= len(row.tokens) - 1
        if tokens <= 0:
            return


def safe(name: str) -> str:
    """``name`` as a file's: letters, digits, dots and hyphens."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.") or "model"
