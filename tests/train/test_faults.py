"""Faults in the numbers of a run, put into its objective at given steps: what is skipped, said and kept."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from gpt2jax.cli import main
from gpt2jax.config import Config, to_yaml
from gpt2jax.errors import GPT2JaxError
from gpt2jax.train import loop
from gpt2jax.train import step as step_module
from gpt2jax.train.diagnose import diagnose
from gpt2jax.train.loop import train
from gpt2jax.train.runlog import read_rows
from gpt2jax.train.step import init_state, make_train_step
from tests.helpers import place_on, random_tokens
from tests.train.test_loop import make, same_params

Spoil = Callable[..., None]


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Spoil:
    """Multiplies the loss of these steps (from 1) by a factor."""

    def set_up(steps: tuple[int, ...], factor: float = jnp.nan) -> None:
        of = step_module.make_gradient

        def spoiled(config: Config, place: Any) -> Any:
            gradient = of(config, place)

            def there(params: Any, step: jax.Array, windows_ABT1: jax.Array) -> Any:
                bad = jnp.isin(step + 1, jnp.asarray(steps))
                return jax.tree.map(lambda x: x * jnp.where(bad, factor, 1.0), gradient(params, step, windows_ABT1))

            return there

        monkeypatch.setattr(step_module, "make_gradient", spoiled)

    return set_up


def checkpoints(run_dir: Path) -> set[str]:
    return {child.name for child in (run_dir / "checkpoints").iterdir()}


def test_a_run_skips_a_bad_step_and_goes_on_and_resumes_bitwise(
    corpus: str, tmp_path: Path, spoil: Spoil, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil((3, 4))
    whole = train(make(corpus, tmp_path / "whole", checkpoint_interval=2))
    out = capsys.readouterr().out
    assert "step 4: skipped, as the checkpoint is that was due" in out
    assert "2 skipped" in out
    rows = {row["step"]: row for row in read_rows(tmp_path / "whole") if "loss" in row}
    assert [row["skipped"] for row in rows.values()] == [0, 0, 1, 1, 0, 0, 0, 0]
    assert [row["skipped_in_a_row"] for row in rows.values()] == [0, 0, 1, 2, 0, 0, 0, 0]
    assert "8 of 8, 2 of them skipped" in (tmp_path / "whole" / "report.md").read_text()
    # Stopped between the two bad steps: the counters go on too.
    train(make(corpus, tmp_path / "halves", steps=3))
    assert same_params(whole, train(make(corpus, tmp_path / "halves")))
    again = {row["step"]: row for row in read_rows(tmp_path / "halves") if "loss" in row}
    assert [row["skipped_in_a_row"] for row in again.values()] == [0, 0, 1, 2, 0, 0, 0, 0]
    # Twin: with other steps skipped it ends elsewhere.
    spoil((5,))
    assert not same_params(whole, train(make(corpus, tmp_path / "other")))


def test_too_many_skipped_steps_end_the_run_with_its_last_good_checkpoint(
    corpus: str, tmp_path: Path, spoil: Spoil
) -> None:
    spoil(tuple(range(4, 40)))
    run = tmp_path / "run"
    with pytest.raises(GPT2JaxError) as caught:
        train(make(corpus, run, checkpoint_interval=2, max_skipped=3, steps=20))
    line = str(caught.value)
    assert line.startswith("step 6: the last 3 steps were skipped, loss is nan and gradient norm nan; try --debug-nans")
    assert line.endswith("the last checkpoint is of step 2")
    assert "\n" not in line
    assert checkpoints(run) == {"2"}
    assert f"ended by | {line}" in (run / "report.md").read_text()
    # Twin: a higher limit lets it go on to its end.
    assert train(make(corpus, tmp_path / "more", max_skipped=30)).step == 8


def test_a_spike_is_skipped_in_a_run_and_the_memory_of_the_guard_is_resumed(
    corpus: str, tmp_path: Path, spoil: Spoil
) -> None:
    spoil((60,), factor=20.0)
    settings: dict[str, Any] = {"steps": 62, "spike_z": 8.0, "eval_interval": 100, "checkpoint_interval": 100}
    whole = train(make(corpus, tmp_path / "whole", **settings))
    train(make(corpus, tmp_path / "halves", **settings | {"steps": 58}))
    assert same_params(whole, train(make(corpus, tmp_path / "halves", **settings)))
    for name in ("whole", "halves"):
        rows = [row for row in read_rows(tmp_path / name) if "loss" in row]
        assert [row["step"] for row in rows if row["skipped"]] == [60]
    # Twin: without the guard the step is taken.
    assert not same_params(whole, train(make(corpus, tmp_path / "off", **settings | {"spike_z": 0.0})))


def spoiled_layer(name: str) -> tuple[Config, Any, Any, jax.Array]:
    """A state whose block 1 makes what is not finite out of what is, or whose parameter is not."""
    config = Config(model=dataclasses.replace(make("", Path()).model, n_layer=3, dropout=0.1))
    place = place_on(2, 2, 2)
    state = init_state(config, place)
    mlp = state.params["h"]["mlp"]["c_proj"]
    if name == "parameter":
        mlp["bias"] = mlp["bias"].at[1, 0].set(jnp.nan)
    elif name == "activation":
        mlp["kernel"] = mlp["kernel"].at[1].set(3e38)
    elif name == "embedding":
        state.params["wpe"] = state.params["wpe"].at[3, 0].set(jnp.inf)
    return config, place, state, random_tokens(0, 2, 8, 17)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("parameter", ("is h/mlp/c_proj/bias of block 1;", "those of block 1, in sequence 0, 1, 2, 3, 4, 5, 6, 7 of")),
        ("activation", ("parameters: all finite", "those of block 1, in sequence 0, 1, 2, 3, 4, 5, 6, 7 of micro-bat")),
        ("embedding", ("the first not finite is wpe;", "those of the embedding")),
        ("none", ("parameters: all finite", "activations: all finite", "as the backward pass goes: all finite")),
    ],
)
def test_a_diagnosis_names_where_it_begins(name: str, parts: tuple[str, ...]) -> None:
    config, place, state, windows_ABT1 = spoiled_layer(name)
    line = diagnose(config, place, state.params, 6, windows_ABT1)
    assert line.startswith("step 7: the loss is nan" if name != "none" else "step 7: the loss is 5.")
    for part in parts:
        assert part in line
    assert "\n" not in line
    # What it says of the gradient is of the backward pass: the final layer norm sees it first.
    assert ("goes: the first not finite is ln_f/bias" in line) == (name != "none")
    # And the step itself skips it.
    _, metrics = make_train_step(config, place)(state, windows_ABT1)
    assert float(metrics["skipped"]) == (name != "none")


def test_debug_nans_ends_the_command_at_the_first_bad_step_and_names_the_layer(
    corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(corpus, tmp_path / "run", log_interval=100)
    optimizer = dataclasses.replace(config.optimizer, learning_rate=1e30, warmup_steps=0, clip_norm=0.0)
    file = tmp_path / "settings.yaml"
    file.write_text(to_yaml(dataclasses.replace(config, optimizer=optimizer)))
    assert main(["train", str(file), "--debug-nans"]) == 2
    error = capsys.readouterr().err
    assert (
        "step 2: the loss is nan; parameters: all finite; activations: the first not finite are those of block" in error
    )
    report = (tmp_path / "run" / "report.md").read_text()  # Before a first line of the log.
    assert "| steps | 2 of 8 |" in report
    assert f"| ended by | {error.strip().removeprefix('gpt2jax: ')} |" in report
    assert "## Environmental impact" in report
    # Without it the steps are skipped, up to the validation, which finds that the parameters are of no use.
    monkeypatch.setattr(loop, "diagnose", None)
    assert main(["train", str(file), "--training.run-dir", str(tmp_path / "other")]) == 2
    error = capsys.readouterr().err
    assert "validation_loss is nan" in error
    report = (tmp_path / "other" / "report.md").read_text()
    assert "| steps | 4 of 8 |" in report
    assert f"| ended by | {error.strip().removeprefix('gpt2jax: ')} |" in report
