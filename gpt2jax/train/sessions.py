"""sessions.json: the starts of a run, for how long each has run on what, and where the later ones went on.

Metrics are those of a run that was never stopped (but for a validation where one was asked to); that it was, and what
it cost, is kept here.
"""

import contextlib
import dataclasses
import datetime
import json
import time
from pathlib import Path
from typing import Any, Self

from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import read_json, write_text

SESSIONS_FILE = "sessions.json"


@dataclasses.dataclass
class Session:
    """One start of a run, to its end or to the last note of it before it was killed."""

    began: str
    """ISO 8601, UTC."""
    start_step: int
    step: int
    """The last step done, when it was noted."""
    seconds: float
    """From the start of training to its end: compilation, validation, saving and what a kill has undone included."""
    devices: int
    device_kind: str


def read_sessions(run_dir: str | Path) -> tuple[int | None, list[Session]]:
    """The number of parameters and the sessions that a run's folder tells of.

    Raises:
        GPT2JaxError: the file is damaged.
    """
    path = Path(run_dir) / SESSIONS_FILE
    if not path.exists():
        return None, []
    value = read_json(path)
    try:
        return int(value["parameters"]), [Session(**session) for session in value["sessions"]]
    except (KeyError, TypeError, ValueError) as error:
        raise GPT2JaxError(f"{path}: not what a run writes ({error})") from None


class Sessions:
    """Those of a run, ours being the last. As a context manager it notes how long ours was, however it ends."""

    def __init__(
        self, run_dir: Path, start_step: int, parameters: int, devices: int, device_kind: str, silent: bool = False
    ) -> None:
        """Begin a session.

        Args:
            parameters: of the model, for reports that cannot count them.
            devices: that the run is on, all of ``device_kind``.
            silent: write nothing, in all processes of a run but one.
        """
        self._path, self._parameters, self._silent = run_dir / SESSIONS_FILE, parameters, silent
        self._began = time.monotonic()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        ours = Session(now, start_step, start_step, 0.0, devices, device_kind)
        self.all = [*([] if silent else read_sessions(run_dir)[1]), ours]

    @property
    def restarts(self) -> list[int]:
        """Steps at which a later session went on."""
        return [session.start_step for session in self.all if session.start_step]

    def note(self, step: int) -> None:
        """Write how far and how long ours has come: what is kept of it when it is killed. None without a step."""
        ours = self.all[-1]
        ours.step, ours.seconds = step, round(time.monotonic() - self._began, 3)
        if not self._silent and ours.step > ours.start_step:
            value: dict[str, Any] = {
                "parameters": self._parameters,
                "sessions": [dataclasses.asdict(session) for session in self.all],
            }
            write_text(self._path, json.dumps(value, indent=1) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        # On a full disk this fails like what came before it, which is what there is to tell.
        with contextlib.suppress(*([OSError, GPT2JaxError] if kind else [])):
            self.note(self.all[-1].step)
