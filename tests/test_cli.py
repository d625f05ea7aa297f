"""The command line as a user meets it."""

import json
import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from gpt2jax import __version__, config, runtime
from gpt2jax.cli import evaluate, main, serve
from gpt2jax.cli.generate import _read_file
from gpt2jax.errors import GPT2JaxError
from gpt2jax.train import dry_run

CONFIGS = Path(__file__).parents[1] / "configs"

SETTINGS = """
model: {n_vocab: 257, n_ctx: 64, n_embd: 32, n_head: 4, n_layer: 2}
data: {path: shards}
training: {run_dir: run, steps: 3, batch_size: 8, eval_batches: 1, checkpoint_interval: 3}
sampling: {max_new_tokens: 5, num_samples: 2}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPT2JAX_CACHE", str(tmp_path / "cache"))
    Path("settings.yaml").write_text(SETTINGS)
    return tmp_path


def error(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that a refused command prints."""
    assert main(list(args)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gpt2jax: ")
    assert err.count("\n") == 1
    return err


def test_prepare_train_resume_and_generate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "pydoc", "--out", "shards", "--tokenizer", "bytes"]) == 0
    assert "train: " in capsys.readouterr().out
    assert main(["train", "settings.yaml"]) == 0
    out = capsys.readouterr().out
    assert "after step 3" in out
    assert "SAMPLE 2" in out
    assert "SAMPLE 2" in Path("run/samples.txt").read_text(encoding="utf-8")

    assert main(["train", "--resume", "run", "--training.steps", "5"]) == 0
    assert "resumed run at step 3 of 5" in capsys.readouterr().out
    assert "steps: 5" in Path("run/config.yaml").read_text()

    assert main(["generate", "--model", "run", "Some ", "words", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert out.count("SAMPLE") == 4  # Two prompts, and two samples each by the run's own settings.
    assert "\nSome " in out
    assert main(["generate", "--model", "run/checkpoints/3", "--unconditional", "--num-samples", "1"]) == 0
    assert "SAMPLE" not in capsys.readouterr().out


def test_interactive_goes_on_after_an_error_and_ends_with_the_input(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["prepare", "pydoc", "--out", "shards", "--tokenizer", "bytes"])
    main(["train", "settings.yaml", "--training.steps", "1"])
    capsys.readouterr()
    lines = iter(["", "/set num_samples 1", "Hello"])

    def answer(_: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", answer)
    assert main(["generate", "--model", "run", "--interactive"]) == 0
    out, err = capsys.readouterr()
    assert "is empty" in err
    assert "num_samples: 1\nHello" in out


def test_jobs_features_and_stops_from_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["prepare", "pydoc", "--out", "shards", "--tokenizer", "bytes"])
    main(["train", "settings.yaml", "--training.steps", "1"])
    Path("prompts.jsonl").write_text('"Some words"\n{"prompt": "More"}\n')
    capsys.readouterr()
    job = ["generate", "--model", "run", "prompts.jsonl", "--output", "out.jsonl", "--batch-size", "2"]
    assert main([*job, "--log-probs", "1"]) == 0
    assert capsys.readouterr().out == "wrote out.jsonl: 2 prompts, 2 of them by this run\n"
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["Some words", "More"]
    assert [len(line["texts"]) for line in lines] == [2, 2]
    assert len(lines[0]["log_probs"][0]) == len(lines[0]["tokens"][0]) <= 5
    Path("job.yaml").write_text(
        "{model: run, prompts: [Some words, More], output: yaml.jsonl, log_probs: 1,"
        " sampling: {max_new_tokens: 5, num_samples: 2}}"
    )
    assert main(["generate", "job.yaml"]) == 0
    again = [json.loads(line) for line in Path("yaml.jsonl").read_text().splitlines()]
    assert [line["texts"] for line in again] == [line["texts"] for line in lines]
    assert main(["generate", "job.yaml", "--output", "other.jsonl", "--seed", "5"]) == 0
    assert Path("other.jsonl").read_text() != Path("out.jsonl").read_text()
    capsys.readouterr()

    assert main(["generate", "--model", "run", "Some words", "--num-samples", "1", "--no-return-full-text"]) == 0
    continued = capsys.readouterr().out
    assert main(["generate", "--model", "run", "Some words", "--num-samples", "1"]) == 0
    assert capsys.readouterr().out == f"Some words{continued}"

    searched = [*job[:3], "Some words", "--beams", "3", "--num-samples", "1"]
    assert main(searched) == 0
    assert capsys.readouterr().out.startswith("Some words")
    assert main([*searched, "--output", "beams.jsonl", "--prompt-log-probs"]) == 0
    [line] = [json.loads(text) for text in Path("beams.jsonl").read_text().splitlines()]
    assert [len(line["prompt_log_probs"]), line["prompt_log_probs"][0]] == [10, None]
    capsys.readouterr()
    for option in (["--output", "x.jsonl", "--log-probs", "1"], ["--draft", "run"]):
        assert "--beams: 3: is a search, in which --" in error(capsys, *searched, *option)
    endless = ["generate", "--model", "run", "--unconditional", "--num-samples", "0", "--beams", "2"]
    assert "--beams: 2: is a search, in which --num-samples 0 has no place" in error(capsys, *endless)
    # What is found out before anything is written leaves nothing in the way of the corrected command.
    assert "log_probs: 999: should be 0 to the vocabulary" in error(
        capsys, *job[:3], "a", "--output", "x.jsonl", "--log-probs", "999"
    )
    assert list(Path().glob("x.jsonl*")) == []
    # A model that drafts for itself is always right.
    assert main(["generate", "--model", "run", "Some words", "--num-samples", "1", "--draft", "run"]) == 0
    assert capsys.readouterr().out == f"Some words{continued}"

    Path("texts.jsonl").write_text('{"text": "one"}\n"another"\n')
    features = ["features", "texts.jsonl", "--model", "run"]
    assert main([*features, "--output", "mean.npz"]) == 0
    assert main([*features, "--output", "none.npz", "--pool", "none", "--layer", "1"]) == 0
    assert np.load("mean.npz")["features"].shape == (2, 32)
    whole = np.load("none.npz")
    assert (whole["features"].shape, whole["lengths"].tolist()) == ((10, 32), [3, 7])
    capsys.readouterr()
    assert "mean.npz: exists" in error(capsys, *features, "--output", "mean.npz")
    assert "out.jsonl: exists" in error(capsys, *job)
    # A run's own settings, under a file's, under the command line's, key by key; the model may come from either.
    Path("job.yaml").write_text("{prompts: [a], output: keys.jsonl, sampling: {max_new_tokens: 2, temperature: 0.0}}")
    assert main(["generate", "job.yaml", "--model", "run", "--max-new-tokens", "3"]) == 0
    [line] = [json.loads(text) for text in Path("keys.jsonl").read_text().splitlines()]
    assert [len(text) for text in line["texts"]] == [4, 4]  # Two samples by the run, three bytes by the command.
    assert line["texts"][0] == line["texts"][1]  # At temperature 0 by the file.
    capsys.readouterr()
    with_model = ["generate", "--model", "run"]
    assert "needs --output" in error(capsys, *with_model, "prompts.jsonl")
    assert "goes before all options" in error(capsys, *with_model, "job.yaml")
    assert "--log-probs: 3: needs --output" in error(capsys, *with_model, "a", "--log-probs", "3")
    assert "--prompt-log-probs: True: needs --output" in error(capsys, *with_model, "a", "--prompt-log-probs")
    assert "--draft-tokens: 2: needs --draft" in error(capsys, *with_model, "a", "--draft-tokens", "2")
    assert "draft_tokens: 0: should be 1 to 16" in error(
        capsys, *with_model, "a", "--draft", "run", "--draft-tokens", "0"
    )
    assert "--num-samples 0: goes with" in error(capsys, *with_model, "a", "--num-samples", "0")
    assert "should end in .npz" in error(capsys, *features, "--output", "f.txt")
    Path("texts.jsonl").write_text("")
    assert "no texts in it" in error(capsys, *features, "--output", "f.npz")
    Path("texts.jsonl").write_text(json.dumps("x" * 65))
    assert "text 1: 65 tokens: should be at most the model's context, 64; --truncate" in error(
        capsys, *features, "--output", "f.npz"
    )
    assert main([*features, "--output", "f.npz", "--truncate"]) == 0
    capsys.readouterr()
    Path("job.yaml").write_text("{model: run, prompts: [a], batch_size: many}")
    assert "job.yaml: batch_size: 'many': should be a int" in error(capsys, "generate", "job.yaml")
    Path("job.yaml").write_text("{model: run, prompts: [a], sampling: {top_q: 2.0}}")
    assert "sampling.top_q: unknown key (nearest: top_p)" in error(capsys, "generate", "job.yaml")
    Path("job.yaml").write_text("{model: run, promts: [a]}")
    assert "job.yaml: promts: unknown key (nearest: prompts)" in error(capsys, "generate", "job.yaml")
    Path("job.yaml").write_text("{model: run, prompts: [a], sampling: {top_p: 2.0}}")
    assert "job.yaml: sampling.top_p: 2.0" in error(capsys, "generate", "job.yaml")


def test_unconditional_text_without_end_ends_with_ctrl_c(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["prepare", "pydoc", "--out", "shards", "--tokenizer", "bytes"])
    main(["train", "settings.yaml", "--training.steps", "1"])
    capsys.readouterr()
    shown: list[str] = []
    monkeypatch.setattr("gpt2jax.cli.generate._print", lambda pieces: _until_third(pieces, shown))
    Path("endless.yaml").write_text("{model: run, unconditional: true, sampling: {num_samples: 0}}")
    for args in (["--model", "run", "--unconditional", "--num_samples=0"], ["endless.yaml"]):
        assert main(["generate", *args]) == 130
        assert [text.splitlines()[0].strip("= ") for text in shown] == ["SAMPLE 1", "SAMPLE 2", "SAMPLE 3"]
        assert len({text.split("\n", 1)[1] for text in shown}) == 3
        shown.clear()


def _until_third(pieces: Iterable[str], shown: list[str]) -> None:
    shown.append("".join(pieces))
    if len(shown) == 3:
        raise KeyboardInterrupt


def test_every_mistake_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'trian': unknown (nearest: train)" in error(capsys, "trian")
    assert "no such settings file" in error(capsys, "train", "nowhere.yaml")
    assert "needs a settings file" in error(capsys, "train")
    assert "nowhere/config.yaml: no such" in error(capsys, "train", "--resume", "nowhere")
    assert "--training.stepz" in error(capsys, "train", "settings.yaml", "--training.stepz", "3")
    assert "nearest: --training.steps" in error(capsys, "train", "settings.yaml", "--training.stepz", "3")
    assert "model.n_head: 5" not in error(capsys, "train", "settings.yaml", "--model.n-head", "4")  # No shards yet.
    assert "multiple of model.n_head (5)" in error(capsys, "train", "settings.yaml", "--model.n-head", "5")
    assert "'fast'" in error(capsys, "train", "settings.yaml", "--optimizer.learning-rate", "fast")
    assert "sampling.top_p: 1.2" in error(capsys, "generate", "--model", "run", "x", "--top-p", "1.2")
    assert "nowhere: no such file" in error(capsys, "generate", "--model", "nowhere", "x")
    assert "needs either prompts" in error(capsys, "generate", "--model", "run")
    assert "needs --model" in error(capsys, "generate", "x")
    assert "none given" in error(capsys, "prepare", "--out", "x")
    assert "missing.txt" in error(capsys, "prepare", "missing.txt", "--out", "x")
    assert not Path("x").exists()
    assert "holds no checkpoint" in error(capsys, "train", "settings.yaml", "--resume", "--training.run-dir", ".")


def test_what_the_system_refuses_is_one_line_too(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "settings.yaml")

    monkeypatch.setattr("gpt2jax.config.load", refuse)
    assert error(capsys, "train", "settings.yaml") == "gpt2jax: settings.yaml: Permission denied\n"


def test_debug_shows_where_an_error_came_from(folder: Path) -> None:
    with pytest.raises(Exception, match="no such settings file"):
        main(["--debug", "train", "nowhere.yaml"])


def test_overrides_reach_the_settings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["prepare", "pydoc", "--out", "shards", "--tokenizer", "bytes"])
    overrides = ["--optimizer.learning-rate", "1e-2", "--training.run-dir", "other", "--training.steps", "1"]
    assert main(["train", "settings.yaml", *overrides]) == 0
    written = Path("other/config.yaml").read_text()
    assert "learning_rate: 0.01" in written
    assert "n_embd: 32" in written


@pytest.mark.parametrize("verb", ["prepare", "train", "generate", "features", "convert", "download", "info"])
def test_help_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert f"gpt2jax {verb}" in capsys.readouterr().out.split("example")[1]


def processor_seconds(code: str, *, uses_jax: bool = False) -> float:
    """What a new process takes for ``code``: its own work, as other tests run at the same time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", f"{code}\nimport sys; sys.exit('jax' in sys.modules)"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == uses_jax
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    ("code", "limit"), [("import gpt2jax", 0.1), ("import gpt2jax.cli as c; c.main(['--help'])", 0.4)]
)
def test_starting_imports_no_jax_and_is_quick(code: str, limit: float) -> None:
    assert min(processor_seconds(code) for _ in range(3)) < limit


def test_the_help_of_a_verb_imports_no_jax_and_takes_little_more_than_its_libraries() -> None:
    """Three times them, and it was 2.1 to 2.6. In seconds, 0.4 to 0.7 as the machine's clock went up and down, which
    no limit parts from a mistake."""
    shown = "import gpt2jax.cli as c\ntry: c.main(['train', '--help'])\nexcept SystemExit: pass"
    libraries = "import tyro, pydantic.dataclasses, yaml"
    ours, theirs = zip(*((processor_seconds(shown), processor_seconds(libraries)) for _ in range(3)), strict=True)
    assert min(ours) < 3 * min(theirs)
    # Twin: with what training imports it is above that.
    assert processor_seconds(f"import gpt2jax.train.loop\n{shown}", uses_jax=True) > 3 * max(theirs)


def test_what_computes_does_import_jax() -> None:
    """The twin: what the test above looks at sees jax where it is."""
    code = "import gpt2jax.cli as c; c.main(['info'])\nimport sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 1


def test_training_keeps_memory_and_a_dry_run_and_generation_do_not(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep() -> None:
        raise GPT2JaxError("kept")

    monkeypatch.setattr(runtime, "keep_memory", keep)
    monkeypatch.setattr(dry_run, "dry_run", lambda config: "dry")
    assert error(capsys, "train", "settings.yaml") == "gpt2jax: kept\n"
    assert main(["train", "settings.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out == "dry\n"
    assert "kept" not in error(capsys, "generate", "--model", "nowhere")


def test_info_names_versions_devices_and_folders(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for part in ("jax ", "flax", "8 x cpu", str(folder / "cache")):
        assert part in out
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_virtual_devices_work_from_the_command_line(folder: Path) -> None:
    """In a process of its own: devices are fixed when jax starts."""
    main(["prepare", "pydoc", "--out", "shards", "--tokenizer", "bytes"])
    mesh = ["--mesh.cpu-devices", "8", "--mesh.fsdp", "4", "--mesh.tensor", "2", "--mesh.max-whole", "0.1"]
    command = [sys.executable, "-m", "gpt2jax", "train", "settings.yaml", *mesh]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "8 x cpu (fsdp 4, tensor 2)" in done.stdout


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("**/*.yaml")), ids=lambda path: path.stem)
def test_every_settings_file_is_valid(path: Path) -> None:
    if path.stem == "generate":
        assert _read_file(str(path))["sampling"]["top_p"] == 0.95
    elif path.stem == "evaluate":
        assert evaluate._read_file(str(path)).evaluation == config.EvaluationConfig()
    elif path.stem == "serve":
        assert serve.read_file(str(path)).serving == config.ServingConfig(max_tokens=512, timeout=120.0)
    else:
        assert config.load(path).training.run_dir.startswith("runs/")
