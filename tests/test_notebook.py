"""What notebooks begin with."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from gpt2jax import checkpoint, notebook, runtime
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

    monkeypatch.setattr(runtime, "keep_memory", lambda: called.append("keep"))
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


def run_python(code: str) -> list[str]:
    """The lines that ``code`` prints in a process without ``NPROC``."""
    env = {name: value for name, value in os.environ.items() if name != "NPROC"} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_threads_for_virtual_devices_are_asked_for_before_jax_is_imported() -> None:
    begin = "import os; from gpt2jax import notebook; notebook.begin({}); print(os.environ.get('NPROC'))"
    said, first, _, threads = run_python(begin.format("cpu_devices=3"))
    assert said.startswith("Accelerators: 0, fewer than 3")
    assert " on 3 x cpu" in first
    assert threads == "64"
    first, _, threads = run_python(begin.format(""))
    assert " on 1 x cpu" in first
    assert threads == "None"  # With 64 threads on few cores, training was slower.


def test_virtual_devices_after_jax_was_imported_without_their_threads_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NPROC")
    monkeypatch.setattr(notebook, "accelerators", lambda: 0)
    with pytest.raises(GPT2JaxError, match=r"cpu_devices: 4: jax was imported without NPROC=64 .*: restart"):
        notebook.begin(cpu_devices=4)


def test_a_jax_that_finds_no_devices_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    with pytest.raises(GPT2JaxError, match=r"jax finds none here: .*abacus"):
        notebook.accelerators()
