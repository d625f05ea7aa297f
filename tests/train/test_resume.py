"""What a run says when it goes on with settings that are not those of before."""

from pathlib import Path

import pytest

from gpt2jax.config import Config, OptimizerConfig, TrainingConfig
from gpt2jax.record import Meta
from gpt2jax.train.resume import resume_notes, write_config
from tests.helpers import TINY


def config(steps: int, **optimizer: object) -> Config:
    return Config(
        model=TINY,
        training=TrainingConfig(steps=steps),
        optimizer=OptimizerConfig(**optimizer),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        (config(200), config(300), (200, 300)),
        (config(200, schedule="wsd"), config(300, schedule="wsd"), (200, 300)),
        (config(200), config(200, decay_steps=150), (200, 150)),
        (config(200), config(300, decay_steps=200), None),
        (config(200), config(200), None),
        (config(200, schedule="constant"), config(300, schedule="constant"), None),
    ],
)
def test_a_schedule_whose_end_moves_is_told(
    before: Config, after: Config, moved: tuple[int, int] | None, tmp_path: Path
) -> None:
    write_config(before, tmp_path)
    found = [note for note in resume_notes(after, Meta(120, TINY, None, leaves={}), tmp_path) if "schedule" in note]
    assert found == (
        []
        if moved is None
        else [
            f"the learning rate's schedule ended at step {moved[0]}, and ends at step {moved[1]} now: from step 120 on"
            " it is that of the new length; --optimizer.decay-steps sets its end"
        ]
    )
