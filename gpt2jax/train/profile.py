"""A profile of a few steps, as TensorBoard, XProf and Perfetto open it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import jax

from gpt2jax.distributed import is_primary
from gpt2jax.errors import GPT2JaxError
from gpt2jax.train.clock import Clock


class Profile:
    """Traces the steps of a range; with none, does nothing. As a context manager it ends a trace that was cut short.

    Of several processes the first one traces: its devices and its host.
    """

    def __init__(self, steps: range | None, start_step: int, last_step: int, folder: Path) -> None:
        """Refuse a range that the run will not pass through.

        Args:
            steps: numbered as the log does: the first step of a run is 1.
            start_step: the step that the run goes on from.

        Raises:
            GPT2JaxError: the range reaches outside the steps that are left.
        """
        if steps is not None and not (start_step < steps.start and steps.stop - 1 <= last_step):
            left = f"steps {start_step + 1} to {last_step}" if start_step < last_step else "none"
            raise GPT2JaxError(
                f"--profile {steps.start}:{steps.stop}: is steps {steps.start} to {steps.stop - 1}: of this run are"
                f" left: {left}"
            )
        self._steps, self._folder, self._tracing = steps if is_primary() else None, folder, False

    @contextlib.contextmanager
    def around(self, step: int, clock: Clock, state: Any) -> Iterator[None]:
        """Trace the step inside, if it is to be. Starting a trace is no part of it, for the clock neither."""
        if self._steps is None or step not in self._steps:
            yield
            return
        if step == self._steps.start:
            jax.block_until_ready(state)
            with clock.paused(step - 1):
                jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def end(self, step: int, clock: Clock, state: Any) -> str:
        """Write the trace after its last step; what to say of it, else nothing."""
        if self._steps is None or step != self._steps.stop - 1:
            return ""
        jax.block_until_ready(state)
        with clock.paused(step):
            self._stop()
        return (
            f"profile of steps {self._steps.start} to {step}: {self._folder}; open it with: xprof --logdir"
            f" {self._folder}, with TensorBoard and its plugin xprof, or (perfetto_trace.json.gz in it) at"
            " https://ui.perfetto.dev"
        )

    def _stop(self) -> None:
        self._tracing = False
        jax.profiler.stop_trace()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._tracing:
            self._stop()
