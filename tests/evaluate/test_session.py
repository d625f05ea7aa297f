"""An evaluation as a whole: what it says, what it leaves behind, and how it goes on after it was stopped."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax
import pytest

from gpt2jax import parameters, tokenizer
from gpt2jax.cli import main
from gpt2jax.config import EvaluationConfig, MeshConfig, ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate import figures, picture, results, run, session, table
from gpt2jax.evaluate.figures import Evaluation, Figure
from gpt2jax.evaluate.likelihood import Scorer
from gpt2jax.evaluate.stop_words import stop_tokens
from gpt2jax.presets import PRESETS
from gpt2jax.weights.convert import convert
from gpt2jax.weights.weights import HeldWeights, Origin
from tests.evaluate import samples

CONFIG = ModelConfig(n_vocab=257, n_ctx=64, n_embd=16, n_head=2, n_layer=2)


def save(folder: Path, seed: int) -> str:
    params = parameters.init(jax.random.key(seed), CONFIG)
    origin = Origin("held", "here", CONFIG, tokenizer.byte_level())
    convert(HeldWeights(origin, params), folder, "orbax", progress=False)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("models") / "small", 0)


@pytest.fixture
def config(tmp_path: Path) -> EvaluationConfig:
    data = tmp_path / "data"
    data.mkdir()
    (data / "ptb.test.txt").write_bytes(samples.PTB * 6)
    (data / "lambada_test.jsonl").write_bytes(samples.LAMBADA)
    return EvaluationConfig(
        tasks=("paper",),
        data=str(data),
        output=str(tmp_path / "out"),
        stride=16,
        allow_changed_data=True,
        batch_tokens=512,
    )


def quiet(line: str) -> None:
    """Says nothing."""


def values(evaluation: Evaluation | None) -> dict[str, float]:
    assert evaluation is not None
    return {figure.name: figure.value for figure in evaluation.figures}


def stored(config: EvaluationConfig) -> Evaluation:
    [one] = results.read_all(Path(config.output)).values()
    return one


def evaluated(model: str, config: EvaluationConfig) -> tuple[Figure, ...]:
    found = session.evaluate(model, config, say=quiet)
    assert found is not None
    return found.figures


def test_what_is_missing_is_said_and_the_rest_is_done(model: str, config: EvaluationConfig) -> None:
    said: list[str] = []
    found = session.evaluate(model, config, say=said.append, command="the command")
    assert [line.split(": ")[1] for line in said if line.startswith("missing")] == [
        "cbt-cn", "cbt-ne", "wikitext2", "enwik8", "text8", "wikitext103", "1bw",
    ]  # fmt: skip
    plan = next(line for line in said if line.startswith("to do"))
    assert "ptb/invertible" in plan
    assert "all" in plan.splitlines()[-1]
    assert set(values(found)) >= {"ptb: invertible", "lambada: openai, perplexity"}
    out = Path(config.output)
    names = sorted(path.name for path in out.iterdir())
    assert names[:2] == ["evaluation.md", "evaluation.png"]
    assert len(names) == 3
    assert names[2].startswith(run.safe(model))
    report = (out / "evaluation.md").read_text()
    assert "the command" in report
    assert "our invertible de-tokenizer; window 64, stride 16; after <|endoftext|>" in report
    assert "changed:" in report.lower()
    assert stored(config) == found


def test_a_dry_run_leaves_nothing(model: str, config: EvaluationConfig) -> None:
    said: list[str] = []
    assert session.evaluate(model, config, say=said.append, dry_run=True) is None
    assert any("ptb/invertible" in line for line in said)
    assert not Path(config.output).exists()


def test_one_that_was_stopped_goes_on(
    model: str, config: EvaluationConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A row a batch: what else is in a batch may change float rounding, and here nothing may change.
    config = dataclasses.replace(config, batch_tokens=CONFIG.n_ctx)
    whole = values(session.evaluate(model, dataclasses.replace(config, output=str(tmp_path / "whole")), say=quiet))
    scored: list[int] = []
    compute = Scorer._compute

    def counted(self: Scorer, rows: Any) -> Any:
        for pair in compute(self, rows):
            scored.append(1)
            yield pair
            if len(scored) == stop:
                raise KeyboardInterrupt

    monkeypatch.setattr(Scorer, "_compute", counted)
    monkeypatch.setattr(run.Run, "expected", lambda self: [0.0] * len(self.jobs))
    stop = 5
    with pytest.raises(KeyboardInterrupt):
        session.evaluate(model, config, say=quiet)
    assert (Path(config.output) / session.JOURNALS).is_dir()
    stop = 0
    assert values(session.evaluate(model, config, say=quiet)) == whole
    again = len(scored)
    assert not (Path(config.output) / session.JOURNALS).exists()
    scored.clear()
    session.evaluate(model, config, say=quiet)
    assert len(scored) == again  # All rows were scored once in the two parts, and all again after the end.


def test_figures_that_are_there_stay(model: str, config: EvaluationConfig) -> None:
    first = values(session.evaluate(model, dataclasses.replace(config, tasks=("lambada",)), say=quiet))
    second = values(session.evaluate(model, dataclasses.replace(config, tasks=("ptb",)), say=quiet))
    assert values(stored(config)) == first | second
    # Of the same task a try and another protocol stand beside what is there, and say what they are.
    again = dataclasses.replace(config, tasks=("ptb",))
    for changed in (dataclasses.replace(again, limit=2), dataclasses.replace(again, stride=8), again):
        session.evaluate(model, changed, say=quiet)
    some = [figure.protocol for figure in stored(config).figures if figure.task == "ptb"]
    assert len(some) == 3
    assert sum("of the beginning alone (limit)" in protocol for protocol in some) == 1
    assert sum("stride 8" in protocol for protocol in some) == 1


def test_models_do_not_take_each_others_place(model: str, config: EvaluationConfig) -> None:
    session.evaluate(model, dataclasses.replace(config, tasks=("ptb",)), say=quiet)
    one = stored(config)
    results.add(dataclasses.replace(one, digest="another model", figures=()), Path(config.output), run.safe(model))
    assert [len(some.figures) for some in results.read_all(Path(config.output)).values()] == [1, 0]


def test_what_another_task_has_scored_stays(model: str, config: EvaluationConfig) -> None:
    scorer = run.Run(model, config, None, run.gather(config)).scorer
    other = Path(config.output) / session.JOURNALS / f"{run.safe(model)}-{scorer.fingerprint[:8]}" / "wikitext103-raw"
    other.mkdir(parents=True)
    (other / "000000000-000000001.npz").write_bytes(b"hours of work")
    session.evaluate(model, dataclasses.replace(config, tasks=("ptb",)), say=quiet)
    assert [path.name for path in other.parent.iterdir()] == ["wikitext103-raw"]
    assert len(list(other.iterdir())) == 1


def test_no_figure_of_other_data_stands_beside_the_papers(model: str, config: EvaluationConfig) -> None:
    [figure] = evaluated(model, dataclasses.replace(config, tasks=("ptb",)))
    assert figure.column is None
    assert figure.protocol.startswith("of other data: the published has 82,430 words+newlines; of a changed file; ")
    [limited] = evaluated(model, dataclasses.replace(config, tasks=("ptb",), limit=2))
    assert limited.protocol.startswith("of the beginning alone (limit); of a changed file; ")
    # The twin: a limit that leaves all there is changes nothing.
    [whole] = evaluated(model, dataclasses.replace(config, tasks=("ptb",), limit=1000))
    assert (whole.value, whole.protocol) == (figure.value, figure.protocol)
    planned = run.Planned(run.Run(model, config, None, run.gather(config)).jobs[0].job, False, "", "", None, ())
    assert planned.complete(dataclasses.replace(figure, column="ptb"), ()).column == "ptb"


def test_what_is_wrong_in_the_folder_is_said_first(model: str, config: EvaluationConfig) -> None:
    out = Path(config.output)
    out.mkdir()
    (out / "package.json").write_text('{"name": "of somebody else"}')
    evaluated(model, dataclasses.replace(config, tasks=("ptb",)))
    assert len(results.read_all(out)) == 1
    (out / "old.json").write_text('{"format_version": 7, "figures": []}')
    with pytest.raises(GPT2JaxError, match=r"old\.json: format_version: 7: should be 1"):
        session.evaluate(str(out / "no model"), config, say=quiet)


def test_a_failure_leaves_no_folder(model: str, config: EvaluationConfig, tmp_path: Path) -> None:
    with pytest.raises(GPT2JaxError, match="stride"):
        session.evaluate(model, dataclasses.replace(config, stride=65), say=quiet)
    assert not Path(config.output).exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(GPT2JaxError, match=r"output: .*file: is a file: should be a folder"):
        session.evaluate(model, dataclasses.replace(config, output=str(tmp_path / "file")), say=quiet)


def test_an_error_in_the_middle_ends_the_program(model: str, config: EvaluationConfig) -> None:
    made = run.Run(model, dataclasses.replace(config, tasks=("ptb",)), None, run.gather(config))
    closed: list[bool] = []

    def broken(scored: Any) -> list[Figure]:
        next(scored)
        closed.append(scored.gi_frame is None)
        raise ZeroDivisionError

    planned = made.jobs[0]
    made.jobs = [planned._replace(job=dataclasses.replace(planned.job, reduce=broken))]
    with pytest.raises(ZeroDivisionError) as error:
        list(made.figures(Path(config.output)))
    frame = error.tb
    while frame.tb_next is not None:
        frame = frame.tb_next
    assert closed == [False]
    assert frame.tb_frame.f_locals["scored"].gi_frame is None  # Closed, though the traceback still holds it.


def test_vocabularies_without_the_stop_words_letters() -> None:
    assert stop_tokens(tokenizer.characters("abc ")) == ()
    assert len(stop_tokens(tokenizer.gpt2())) > 200


def test_on_a_mesh_the_figures_are_the_same(model: str, config: EvaluationConfig, tmp_path: Path) -> None:
    one = values(session.evaluate(model, config, say=quiet))
    other = dataclasses.replace(config, output=str(tmp_path / "mesh"))
    assert values(session.evaluate(model, other, MeshConfig(data=2, fsdp=2, tensor=2), say=quiet)) == pytest.approx(
        one, rel=1e-4
    )


def test_errors_are_a_line_each(model: str, config: EvaluationConfig, tmp_path: Path) -> None:
    def fails(with_what: str, **changes: Any) -> None:
        with pytest.raises(GPT2JaxError, match=with_what):
            session.evaluate(model, dataclasses.replace(config, **changes), say=quiet)

    fails(r"tasks: lambda: no task, and no folder of shards \(nearest: lambada\)", tasks=("lambda",))
    fails(r"data: .*: has the files of none of wikitext2", tasks=("wikitext2",))
    fails(r"data: .*nothing: no such folder", data=str(tmp_path / "nothing"))
    fails(r"lambada_test.jsonl: not LAMBADA.*sha256", allow_changed_data=False)
    fails(r"stride: 65: should be at most the window, 64", stride=65)
    with pytest.raises(GPT2JaxError, match="no such file or folder"):
        session.evaluate(str(tmp_path / "no model"), config, say=quiet)


def figure(**changes: Any) -> Figure:
    made = Figure("wikitext2", "invertible", True, "perplexity", 25.0, "protocol", 245_569, "words+newlines", 278_221)
    return dataclasses.replace(made, **changes)


def evaluation(*some: Figure, preset: str | None = "gpt2-medium") -> Evaluation:
    return Evaluation(
        model=preset or "mine",
        sizes={"n_layer": 24},
        preset=preset,
        digest="d",
        versions={"jax": "0"},
        figures=some,
    )


class TestTable:
    def test_ours_beside_the_papers(self) -> None:
        perplexity = figure(column="wikitext2", value=22.76 * 1.1)
        accuracy = figure(task="lambada", variant="openai", metric="accuracy", column="lambada-acc", value=54.48)
        names, *lines = table.lines(evaluation(perplexity, accuracy))
        rows = [dict(zip(names, line, strict=True)) for line in lines]
        assert [row["task"] for row in rows] == ["lambada: openai", "wikitext2: invertible"]  # The paper's order.
        assert [(row["ours"], row["paper"], row["difference"]) for row in rows] == [
            ("54.48 %", "55.48 %", "-1.00 points"),
            ("25.04", "22.76", "+10.0 %"),
        ]
        assert rows[1]["U"] == "245,569"

    def test_other_sizes_have_no_row_in_the_paper(self) -> None:
        _, line = table.lines(evaluation(figure(column="wikitext2"), preset=None))
        assert line[2:4] == ["-", "-"]

    def test_what_is_not_finite_goes_through_the_file(self, tmp_path: Path) -> None:
        figures.write(evaluation(figure(value=math.inf)), tmp_path / "one.json")
        assert json.loads((tmp_path / "one.json").read_text())["figures"][0]["value"] is None
        assert math.isnan(figures.read(tmp_path / "one.json").figures[0].value)

    def test_a_damaged_file_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "one.json"
        path.write_text('{"format_version": 1, "model": 3}')
        with pytest.raises(GPT2JaxError, match=r"one\.json: "):
            figures.read(path)
        path.write_text('{"format_version": 2}')
        with pytest.raises(GPT2JaxError, match="format_version: 2: should be 1"):
            figures.read(path)


def test_the_picture_has_all_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(picture, "save", lambda figure, path: drawn.append(figure))
    some = [evaluation(figure(column="wikitext2", value=23.0)), evaluation(figure(column="wikitext2"), preset=None)]
    picture.draw(some, tmp_path / "evaluation.png")
    panels = drawn[0].axes
    assert len(panels) == 10
    assert [len(panel.lines) for panel in panels] == [1, 1, 1, 1, 2, 1, 1, 1, 1, 1]
    ours = panels[4].lines[1]
    assert list(ours.get_xdata()) == [1, 4]  # gpt2-medium is the second of the four; another model comes after them.
    assert list(ours.get_ydata()) == [23.0, 25.0]


def test_presets_are_known_by_their_sizes() -> None:
    for name, sizes in PRESETS.items():
        config = ModelConfig(**sizes)  # type: ignore[arg-type]
        assert run.preset_of(config) == name
        assert run.preset_of(dataclasses.replace(config, n_vocab=257)) is None
    assert run.preset_of(CONFIG) is None


class TestCommand:
    def test_list(self, config: EvaluationConfig, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["evaluate", "--list", "--data", config.data]) == 0
        out = capsys.readouterr().out
        assert "lambada_test.jsonl: not LAMBADA" in out
        assert "--download wikitext2" in out
        assert "needs no file" in out

    def test_a_settings_file(
        self, model: str, config: EvaluationConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "evaluate.yaml"
        lines = [f"model: {model}", "tasks: ptb", f"data: {config.data}", "stride: 16", f"output: {config.output}"]
        path.write_text("\n".join(lines))
        assert main(["evaluate", str(path), "--allow-changed-data"]) == 0
        out = capsys.readouterr().out
        assert "ptb: invertible" in out
        assert "stride 16" in out
        path.write_text("\n".join([*lines, "strides: 16"]))
        assert main(["evaluate", str(path)]) == 2
        assert "evaluate.yaml: strides: unknown key" in capsys.readouterr().err
        path.write_text("stride: 0\n")
        assert main(["evaluate", str(path), "--model", model]) == 2
        assert "evaluate.yaml: stride: 0:" in capsys.readouterr().err
        path.write_text("mesh: [1]\n")
        assert main(["evaluate", str(path), "--model", model]) == 2
        assert "evaluate.yaml: mesh: [1]: should be a mapping" in capsys.readouterr().err

    def test_it_needs_something_to_do(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["evaluate"]) == 2
        assert "needs --model" in capsys.readouterr().err
