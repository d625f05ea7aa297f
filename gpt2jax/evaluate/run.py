"""From tasks and a model to figures: what is there, what it will take, and then one job after the other."""

import dataclasses
import re
import time
from collections.abc import Iterator
from pathlib import Path

from gpt2jax import runtime
from gpt2jax.config import SIZES, EvaluationConfig, MeshConfig, ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate.figures import Evaluation, Figure
from gpt2jax.evaluate.find import Found, Missing, find
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
        """Read the model, and make the rows of all jobs; nothing is computed.

        Raises:
            GPT2JaxError: no such model, one without vocabulary, or data that is damaged.
        """
        weights = open_weights(model)
        self.model, self.config, self.files = model, config, files
        self.setting = _setting(weights, config, model)
        self.sizes = {name: int(getattr(weights.config, name)) for name in SIZES if name != "layer_norm_epsilon"}
        self.preset = preset_of(weights.config)
        self.jobs = [(task, job) for task, found in files.tasks for job in task.jobs(*found, self.setting)]
        options = {} if config.batch_tokens is None else {"batch_tokens": config.batch_tokens}
        banned = stop_tokens(self.setting.encoding)
        self.scorer = Scorer.load(model, mesh, compute_dtype=config.compute_dtype, banned=banned, **options)

    def expected(self) -> list[float]:
        """Seconds that each job will take, from a small part of it that is scored twice: the first time compiles.

        What is left of a job when another has been tried on rows of the same shapes is not measured again: jobs whose
        rows read equally many tokens on the average go at the same speed.
        """
        speeds: dict[tuple[int, int], float] = {}
        return [job.forward_tokens / self._speed(job, speeds) for _, job in self.jobs]

    def _speed(self, job: Job, speeds: dict[tuple[int, int], float]) -> float:
        rows = list(_some(job, min(TRIAL_TOKENS, job.forward_tokens // TRIAL_PART)))
        kind = self.scorer.shape(rows[-1])
        if kind not in speeds:
            read = sum(len(row.tokens) - 1 for row in rows)
            for _ in range(2):
                began = time.perf_counter()
                for _ in self.scorer.score_all(rows):
                    pass
                speeds[kind] = read / (time.perf_counter() - began)
        return speeds[kind]

    def figures(self, journals: Path) -> Iterator[list[Figure]]:
        """The figures of one job after the other.

        Args:
            journals: the folder for what has been scored, from which an evaluation that was stopped goes on. It is for
                the caller to remove once all figures are kept.
        """
        for task, job in self.jobs:
            began = time.perf_counter()
            with counter(f"Scoring {job.name}", job.forward_tokens) as progress:
                scored = self.scorer.score_all(job.rows(), Journal(journals / safe(job.name)), progress)
                found = job.reduce(scored)
            yield [self._complete(figure, task, job, time.perf_counter() - began) for figure in found]

    def _complete(self, figure: Figure, task: Task, job: Job, seconds: float) -> Figure:
        notes = figure.notes
        if self.config.limit is not None:
            notes = (*notes, f"only of the first {self.config.limit:,} items, lines, bytes or tokens")
        figure = dataclasses.replace(figure, notes=notes, forward_tokens=job.forward_tokens, seconds=seconds)
        if job.found is None:
            return figure
        where = job.found.member or job.found.path.name
        return dataclasses.replace(figure, notes=(*notes, *job.found.notes), data=where, sha256=job.found.sha256)

    def evaluation(self, figures: list[Figure], command: str) -> Evaluation:
        """``figures`` with all that is to be said of the model and the machine."""
        devices = self.scorer.place.mesh.devices
        return Evaluation(
            model=self.model,
            sizes=self.sizes,
            preset=self.preset,
            digest=self.scorer.fingerprint[:16],
            device=f"{devices.size} x {devices.flat[0].device_kind}",
            compute_dtype=self.config.compute_dtype,
            versions=runtime.versions(),
            command=command,
            figures=tuple(figures),
            missing=self.files.missing,
        )


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
