"""Counters without a terminal, and times as people read them."""

import pytest

from gpt2jax import progress
from gpt2jax.progress import counter, duration


def test_durations_are_read_at_a_glance() -> None:
    seconds = (0.4, 59, 61, 3600 + 125, 3 * 86400 + 4 * 3600 + 50)
    assert [duration(one) for one in seconds] == ["0 s", "59 s", "1 min 1 s", "1 h 2 min", "3 d 4 h"]


def test_lines_say_what_is_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with counter("Working", 100) as say:
        say(20, "")  # These were there.
        for done, at in ((25, 30.0), (40, 60.0), (100, 70.0)):
            now = at
            say(done, f"{done} done")
    lines = capsys.readouterr().err.splitlines()
    # 20 in a minute: 60 more in three.
    assert lines == ["Working: 40 of 100  40 done  3 min 0 s left", "Working: 100 of 100  100 done"]
