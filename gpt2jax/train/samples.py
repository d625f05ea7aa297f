"""samples.txt: what the model writes as it learns, under the steps at which it wrote it."""

import re
from collections.abc import Callable
from pathlib import Path

import jax
import tiktoken
from jax.experimental import multihost_utils

from gpt2jax.config import Config
from gpt2jax.distributed import all_agree, is_primary
from gpt2jax.files import write_text
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition
from gpt2jax.train.corpus import Corpus

SAMPLES_FILE = "samples.txt"
_HEADING = "######## step "
_BEST = ", the best"

# Of parameters, on a mesh or (None) on the host, and the prompts of the run's data (without them: of nothing): all
# samples as a person reads them, and the first one alone.
Draw = Callable[[Params, tiktoken.Encoding, Partition | None, list[str]], tuple[str, str]]


class Samples:
    """Samples of one run: every ``training.sample_interval`` steps, and after the last one.

    They are functions of parameters, settings and data alone, so a run that was killed ends with those of one that was
    not: what it wrote past the step that it goes on from is dropped, to come again.
    """

    def __init__(self, config: Config, corpus: Corpus, place: Partition, start_step: int, draw: Draw | None) -> None:
        """Open the file of the run.

        Args:
            draw: what writes; None writes nothing.
        """
        self._training, self._encoding, self._place, self._draw = config.training, corpus.encoding, place, draw
        self._prompts = corpus.prompts(config.sampling.num_samples) if draw and is_primary() else []
        self._path = Path(config.training.run_dir) / SAMPLES_FILE
        self._text = ""
        if draw and is_primary() and self._path.exists():
            written = self._path.read_text(encoding="utf-8", errors="replace")
            if (kept := _up_to(written, start_step)) != written:
                write_text(self._path, kept)
            self._text = kept

    def due(self, step: int) -> bool:
        """Whether to write after this step."""
        interval = self._training.sample_interval
        return bool(self._draw and interval and step and step % interval == 0)

    def wanted_at_end(self) -> bool:
        """Several processes write when they were asked to, not at the end alone."""
        return bool(self._draw and (self._training.sample_interval or jax.process_count() == 1))

    def lacks(self, step: int, best: bool = False) -> bool:
        """Whether the file lacks the samples of this step: the run was killed between checkpoint and samples."""
        return not all_agree(not is_primary() or f"\n{_heading(step, best)}" in f"\n{self._text}")

    def add(self, params: Params, step: int, *, final: bool = False, best: bool = False) -> str:
        """Write samples of the parameters after ``step``. Every process of several must call this.

        Args:
            params: the table's, with adapters merged.
            final: whether the run has ended.
            best: whether they are not of its last step but of its best.

        Returns:
            What to show of them: the first, at the end all.
        """
        assert self._draw is not None
        if jax.process_count() == 1:
            place = self._place if self._place.mesh.size > 1 else None
            whole, first = self._draw(params, self._encoding, place, self._prompts)
        else:  # The first process writes, on one device: a parameter at a time comes to it over the hosts' memory.
            params = jax.tree.map(_on_primary, params)
            if not is_primary():
                return ""
            whole, first = self._draw(params, self._encoding, None, self._prompts)
        # Text that looks like a heading of ours is not to be taken for one.
        body = re.sub(f"^(?={re.escape(_HEADING)})", " ", whole, flags=re.MULTILINE)
        self._text += f"{_heading(step, best)}{body}\n"
        write_text(self._path, self._text)
        return whole.rstrip("\n") if final else f"step {step:>6}  sample: {first}"


def _heading(step: int, best: bool) -> str:
    return f"{_HEADING}{step}{_BEST if best else ''}\n"


def _up_to(text: str, step: int) -> str:
    """The part of a file that was written up to ``step``."""
    for heading in re.finditer(rf"^{re.escape(_HEADING)}(\d+)({_BEST})?$", text, re.MULTILINE):
        if int(heading[1]) > step:
            return text[: heading.start()]
    return text


def _on_primary(leaf: jax.Array) -> object:
    whole = multihost_utils.process_allgather(leaf, tiled=True)
    return whole if is_primary() else None
