"""What notebooks begin with."""

from pathlib import Path

import jax
import pytest

from gpt2jax import checkpoint, notebook
from gpt2jax.errors import GPT2JaxError

TINY = notebook.SMALL | {
    "model": {"n_vocab": 257, "n_ctx": 8, "n_embd": 16, "n_head": 2, "n_layer": 1},
    "optimizer": {"warmup_steps": 1},
    "training": {"steps": 2, "eval_batches": 1},
}


@pytest.mark.usefixtures("standard_promotion")
def test_the_small_model_is_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notebook, "SMALL", TINY)
    run_dir = notebook.small_model(tmp_path / "small")
    assert "validation loss" in capsys.readouterr().out
    assert checkpoint.read_meta(run_dir).step == 2
    assert notebook.small_model(run_dir) == run_dir
    assert capsys.readouterr().out == f"{run_dir} is there already, trained for 2 steps\n"
    # Settings of more steps go on from there; those of another model are refused.
    monkeypatch.setattr(notebook, "SMALL", TINY | {"training": {"steps": 3, "eval_batches": 1}})
    assert checkpoint.read_meta(notebook.small_model(run_dir)).step == 3
    monkeypatch.setattr(notebook, "SMALL", TINY | {"model": TINY["model"] | {"n_embd": 32}})
    with pytest.raises(GPT2JaxError, match=r"model\.n_embd: 32"):
        notebook.small_model(run_dir)


def test_the_runtime_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    notebook.begin()
    first, second = capsys.readouterr().out.splitlines()
    assert f"jax {jax.__version__} on {jax.device_count()} x cpu" in first
    assert second.startswith("CPU: ")


def test_memory_is_kept_before_jax_looks_for_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    devices, called = jax.devices, []

    def look() -> list[jax.Device]:
        called.append("look")
        return devices()

    monkeypatch.setattr(notebook.runtime, "keep_memory", lambda: called.append("keep"))
    monkeypatch.setattr(jax, "devices", look)
    notebook.begin()
    assert called[:2] == ["keep", "look"]


def test_virtual_devices_stand_in_only_for_accelerators_that_are_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NPROC", "64")
    assert notebook.accelerators() == 0
    monkeypatch.setattr(notebook, "accelerators", lambda: 3)
    notebook.begin(cpu_devices=3)
    assert "stand in" not in capsys.readouterr().out
    with pytest.raises(GPT2JaxError, match="cpu_devices: 4: jax has looked for devices already"):
        notebook.begin(cpu_devices=4)
    assert capsys.readouterr().out.startswith("Accelerators: 3, fewer than 4: as many virtual devices")


def test_a_jax_that_finds_no_devices_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    with pytest.raises(GPT2JaxError, match=r"jax finds none here: .*abacus"):
        notebook.accelerators()
