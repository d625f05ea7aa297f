"""Large jobs: a file of prompts to a file of texts, in order, restarted where it stopped."""

import dataclasses
import hashlib
import itertools
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gpt2jax.config import SamplingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import write_text
from gpt2jax.generate.request import check_alternatives
from gpt2jax.generate.score import score
from gpt2jax.generate.text import Sample, TextModel
from gpt2jax.progress import counter

# Batches that are sorted by length together: enough to waste little padding, few enough to lose little work.
WINDOW_BATCHES = 8


def run_job(
    model: TextModel,
    prompts: list[str],
    output: Path,
    sampling: SamplingConfig,
    *,
    batch_size: int = 16,
    log_probs: int = 0,
    prompt_log_probs: bool = False,
    allow_special: bool = False,
    progress: bool = True,
    wait: bool = False,
) -> int:
    """Write a JSON line for each prompt to ``output``, in the order of the prompts.

    A line has ``prompt``, ``texts`` and ``finish_reasons``, and with ``log_probs`` also ``tokens``, ``log_probs`` and
    ``top_log_probs``; with ``prompt_log_probs`` also ``prompt_tokens`` and ``prompt_log_probs``, null for the first
    token, which nothing comes before, and with both ``prompt_top_log_probs``.

    Until the job is done the lines stand in ``output`` with ``.partial`` behind its name; the same call goes on after
    the last whole line there, and one with other settings is refused. A text depends on (seed, sample index) and its
    prompt alone, so that a job that was stopped ends with the same lines as one that was not.

    With N processes each takes every N-th prompt and writes ``output`` with ``.K-of-N`` behind its name; who is done
    last puts them together, in a folder that all of them see. Started again, they must be as many. ``wait`` returns
    when ``output`` is there: process 0 should not leave before the others, who would end with it.

    Returns:
        How many prompts were done by this call.

    Raises:
        GPT2JaxError: a prompt that cannot be continued, before anything is computed; or ``output`` exists.
    """
    if output.exists():
        raise GPT2JaxError(f"{output}: exists; give a new name, or remove it")
    if not prompts:
        raise GPT2JaxError("prompts: none: one at least is needed")
    # Everything is checked before hours of work begin.
    check_alternatives(log_probs, model.config, sampling)
    model.requests(prompts, sampling, allow_special)
    index, count = jax.process_index(), jax.process_count()
    if count > 1 and model.place and any(device.process_index != index for device in model.place.mesh.devices.flat):
        raise GPT2JaxError("mesh: over several processes: in a job of several each has prompts of its own to write")
    job = _Job(model, sampling, batch_size, log_probs, prompt_log_probs, allow_special)
    fingerprint = job.fingerprint(prompts)
    if count == 1:
        done = _run(job, prompts, output, fingerprint, progress)
        _job_file(output).unlink()
        return done
    parts = [output.with_name(f"{output.name}.{number}-of-{count}") for number in range(count)]
    if parts[index].exists():  # This process was started again.
        _check_same_job(parts[index], fingerprint)
        done = 0
    else:
        done = _run(job, prompts[index::count], parts[index], fingerprint, progress)
    while True:
        missing = [part.name for part in parts if not part.exists()]
        if not missing:
            _put_together(parts, output, fingerprint)
        if not missing or not wait or output.exists():
            return done
        time.sleep(1.0)


@dataclasses.dataclass(frozen=True)
class _Job:
    """What its lines depend on, and who writes them."""

    model: TextModel
    sampling: SamplingConfig
    batch_size: int
    log_probs: int
    prompt_log_probs: bool
    allow_special: bool

    def fingerprint(self, prompts: list[str]) -> str:
        """Equal for jobs whose lines are the same."""
        table = np.asarray(self.model.params["wte"][:8]).tobytes()  # Enough to tell one model from another.
        what = [self.log_probs, self.prompt_log_probs, self.allow_special, prompts]
        told = [vars(self.model.config), vars(self.sampling), *what, hashlib.sha256(table).hexdigest()]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def write(self, prompts: list[str]) -> tuple[list[dict[str, Any]], int]:
        """A line for each of ``prompts``, and how many tokens were drawn for them."""
        written = self.model.sample(
            prompts,
            self.sampling,
            allow_special=self.allow_special,
            batch_size=self.batch_size,
            alternatives=self.log_probs,
        )
        lines = [self._of_samples(prompt, samples) for prompt, samples in zip(prompts, written, strict=True)]
        if self.prompt_log_probs:
            for line, more in zip(lines, self._of_prompts(prompts), strict=True):
                line |= more
        return lines, sum(len(one.tokens) for samples in written for one in samples)

    def _of_samples(self, prompt: str, samples: list[Sample]) -> dict[str, Any]:
        head = prompt if self.sampling.return_full_text else ""
        line: dict[str, Any] = {
            "prompt": prompt,
            "texts": [head + one.text for one in samples],
            "finish_reasons": [one.finish for one in samples],
        }
        if self.log_probs:
            line["tokens"] = [one.tokens for one in samples]
            line["log_probs"] = [[*map(_number, one.log_probs)] for one in samples]
            line["top_log_probs"] = [_numbers(one.top) for one in samples]
        return line

    def _of_prompts(self, prompts: list[str]) -> list[dict[str, Any]]:
        """What a line says of its prompt's tokens, as they were read."""
        once = dataclasses.replace(self.sampling, num_samples=1, best_of=1)
        tokens = [request.prompt for request in self.model.requests(prompts, once, self.allow_special)]
        scores = score(
            self.model.params, tokens, self.model.config, alternatives=self.log_probs, batch_size=self.batch_size
        )
        lines = []
        for prompt, of in zip(tokens, scores, strict=True):
            line: dict[str, Any] = {"prompt_tokens": prompt, "prompt_log_probs": [None, *map(_number, of.log_probs)]}
            lines.append(line | ({"prompt_top_log_probs": [None, *_numbers(of.top)]} if self.log_probs else {}))
        return lines


def _number(value: float) -> float | None:
    """JSON has no NaN: that of a forced token, or of weights that are NaN."""
    return None if math.isnan(value) else value


def _numbers(top: list[list[tuple[int, float]]]) -> list[list[tuple[int, float | None]]]:
    return [[(token, _number(value)) for token, value in pairs] for pairs in top]


def _run(job: _Job, prompts: list[str], output: Path, fingerprint: str, progress: bool) -> int:
    """Write ``output``; the file that says which job it is of stays beside it."""
    partial = output.with_name(f"{output.name}.partial")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        if partial.exists():
            _check_same_job(output, fingerprint)
        else:
            write_text(_job_file(output), fingerprint)
        done = _whole_lines(partial, len(prompts))
        window = job.batch_size * WINDOW_BATCHES
        started, drawn = time.perf_counter(), 0
        with partial.open("a", encoding="ascii") as file, counter("Writing", len(prompts), progress) as report:
            report(done, "")
            for first in range(done, len(prompts), window):
                lines, tokens = job.write(prompts[first : first + window])
                file.write("".join(json.dumps(line) + "\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
                drawn += tokens
                report(first + len(lines), f"{drawn / (time.perf_counter() - started):,.0f} tokens/s")
        os.replace(partial, output)
    except OSError as error:
        raise GPT2JaxError(f"{output}: cannot be written ({error.strerror or error})") from None
    return len(prompts) - done


def _put_together(parts: list[Path], output: Path, fingerprint: str) -> None:
    """Lines that were dealt out to ``parts`` one by one, in order; two processes may do this at the same time."""
    try:
        lines = []
        for part in parts:
            _check_same_job(part, fingerprint)
            lines.append(part.read_text(encoding="ascii").splitlines(keepends=True))
        write_text(output, "".join(line for row in itertools.zip_longest(*lines, fillvalue="") for line in row))
        for part in parts:
            part.unlink(missing_ok=True)
            _job_file(part).unlink(missing_ok=True)
    except (FileNotFoundError, GPT2JaxError):
        if not output.exists():  # Else the other one was quicker.
            raise


def _job_file(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial.job")


def _check_same_job(output: Path, fingerprint: str) -> None:
    """Refuse to go on with what another job has written of ``output``."""
    job = _job_file(output)
    if not job.exists() or job.read_text(encoding="utf-8") != fingerprint:
        there = output if output.exists() else output.with_name(f"{output.name}.partial")
        raise GPT2JaxError(
            f"{there}: is of a job with another model, prompts or settings: remove it, or name another output"
        )


def _whole_lines(partial: Path, prompts: int) -> int:
    """How many prompts are done in ``partial``; the line that a crash cut short is dropped from it."""
    if not partial.exists():
        return 0
    raw = partial.read_bytes()
    whole = raw.rfind(b"\n") + 1
    if whole < len(raw):
        with partial.open("r+b") as file:
            file.truncate(whole)
    lines = raw[:whole].count(b"\n")
    if lines > prompts:
        raise GPT2JaxError(f"{partial}: {lines:,} lines for {prompts:,} prompts: damaged; remove it")
    return lines


def read_prompts(path: Path, key: str = "prompt") -> list[str]:
    """The prompts of a .jsonl file (strings, or objects with ``key``) or of a text file, a line each.

    Raises:
        GPT2JaxError: unreadable, or a line that is neither.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise GPT2JaxError(f"{path}: cannot be read ({error})") from None
    # Not splitlines(): that also cuts at characters which a line of text or JSON may hold.
    lines = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if path.suffix != ".jsonl":
        return [line for _, line in lines]
    return list(_parse(lines, key, path))


def _parse(lines: list[tuple[int, str]], key: str, path: Path) -> Iterator[str]:
    for number, line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise GPT2JaxError(f"{path}: line {number}: not JSON ({error})") from None
        prompt = value.get(key) if isinstance(value, dict) else value
        if not isinstance(prompt, str):
            raise GPT2JaxError(f"{path}: line {number}: should be a string, or an object with a string {key!r}")
        yield prompt
