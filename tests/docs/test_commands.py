"""Each command, option and setting that the documentation names is one that the program takes."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt2jax.config import Config, EvaluationConfig, ServingConfig
from tests.docs.commands import check, commands, options, settings_problem
from tests.docs.pages import HEADS, PAGES, ROOT, blocks, head_commands, spans

COMMANDS = ("", "bash", "sh", "console")
LANGUAGES = (*COMMANDS, "python", "yaml", "json", "text", "make", "dockerfile")
# Of other programs, named beside ours: Slurm's, SkyPilot's, of the launch scripts.
OTHER_OPTIONS = {"--ntasks-per-node", "--gpus-per-task", "--batch", "--signal", "--dryrun", "--env", "--model_args"}
FILE_ENDINGS = {"json", "md", "npz", "png", "py", "safetensors", "txt", "yaml"}
# Each section as it is by default.
SECTIONS = {**vars(Config()), "evaluation": EvaluationConfig(), "serving": ServingConfig()}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that has the repository's settings, and nothing of the reader's own."""
    for name in ("benchmarks", "configs", "docs", "launch"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPT2JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path


def problems(text: str, of_others: bool = False) -> Iterator[str]:
    """What is wrong with the commands, settings and options of a page.

    Args:
        of_others: whether it names those of other programs, too, between its words: then our commands alone are looked
            at there.
    """
    found = blocks(text)
    files = {Path(block.file).name: block.text for block in found if block.language == "yaml" and block.file}
    for block in found:
        if block.language not in LANGUAGES:
            yield f"line {block.line}: {block.language}: a language that nobody here knows"
        if block.language == "yaml" and (wrong := settings_problem(block.text)):
            yield f"line {block.line}: {wrong}"
        if block.language in COMMANDS:
            yield from (f"line {block.line}: {wrong}" for wrong in _wrong(shell(block.text), files))
    for span in spans(text):
        if of_others and not re.match(r"(\.venv/bin/)?gpt2jax |make ", span):
            continue
        yield from (f"`{span}`: {wrong}" for wrong in wrong_span(span, files))


def shell(text: str) -> str:
    """The commands of a block: after ``$`` where it shows what they print, too."""
    shown = re.findall(r"^\$ (.*(?:\\\n.*)*)", text, re.M)
    return "\n".join(shown) if shown else text


def _wrong(text: str, files: dict[str, str]) -> Iterator[str]:
    try:
        found = commands(text)
    except ValueError as error:
        yield f"{text}: {error}"
        return
    for words in found:
        if wrong := check(words, files):
            yield f"{' '.join(words)}: {wrong}"


def wrong_span(span: str, files: dict[str, str]) -> Iterator[str]:
    """What is wrong with code between words: a command, an option, or a setting by its section and key."""
    if re.match(r"(\.venv/bin/)?gpt2jax [a-z]|make [a-z]|(\S+/)?python3? |pip |launch/\S+\.sh ", span):
        if not re.search(r"\.\.\.|VERB|section\.key", span) and span not in ONE_WORD:
            yield from _wrong(span, files)
    elif option := re.match(r"--[a-z][\w.-]*", span):
        if option[0] not in OTHER_OPTIONS and option[0].replace("_", "-") not in options():
            yield f"no program has {option[0]}"
    elif (named := re.match(r"([a-z]+)\.([a-z_0-9]+)(:|$)", span)) and named[1] in SECTIONS:
        section = SECTIONS[named[1]]
        if named[2] not in FILE_ENDINGS and not hasattr(section, named[2]) and not _in_module(named[1], named[2]):
            yield f"no setting {named[2]} in {named[1]}"


def _in_module(name: str, member: str) -> bool:
    """Whether a module of the package has the name of a section, and has ``member``."""
    spec = importlib.util.find_spec(f"gpt2jax.{name}")
    return spec is not None and hasattr(importlib.import_module(f"gpt2jax.{name}"), member)


# A verb by its name alone.
ONE_WORD = {f"gpt2jax {verb}" for verb in ("prepare", "train", "report", "generate", "evaluate", "features")}
ONE_WORD |= {f"gpt2jax {verb}" for verb in ("convert", "download", "plan")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_tells_to_type_is_taken(page: Path) -> None:
    of_others = page.parent.name == "coming_from"
    assert list(problems(page.read_text(encoding="utf-8"), of_others)) == []


@pytest.mark.parametrize("path", HEADS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_the_head_of_a_file_tells_to_type_is_taken(path: Path) -> None:
    text = head_commands(path.read_text(encoding="utf-8"))
    assert text or path.parent.name == "launch"
    assert list(_wrong(text, {})) == []


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ("```\ngpt2jax train configs/quickstart.yaml --optimizer.learning-rat 1e-3\n```", "--optimizer.learning-rat"),
        ("```\ngpt2jax train configs/quickstart.yaml --training.steps many\n```", "many"),
        ("```\ngpt2jax train configs/quickstart.yaml \\\n    --training.batch-size 0\n```", "training.batch_size: 0"),
        ("```\ngpt2jax train configs/nowhere.yaml\n```", "configs/nowhere.yaml: no such file"),
        ("```\ngpt2jax info; gpt2jax trian mine.yaml  # a slip\n```", "'trian': unknown (nearest: train)"),
        ("```\n.venv/bin/gpt2jax generate --model gpt2 x --top-p 1.2\n```", "sampling.top_p: 1.2"),
        ("```\ngpt2jax evaluate --model gpt2 --tasks lambda\n```", "lambda"),
        ("```\ngpt2jax evaluate --download lambda\n```", "lambda"),
        ("```\ngpt2jax plan configs/pretrain/gpt2.yaml --topology v5q-8\n```", "v5q-8"),
        ("```\nA=1 launch/local.sh 2 gpt2jax train configs/quickstart.yaml --fast\n```", "--fast"),
        ("```\nsky launch launch/sky.yaml --env COMMAND='gpt2jax train mine.yaml --fast'\n```", "--fast"),
        ("```\nsbatch launch/slurmy.sh gpt2jax info\n```", "launch/slurmy.sh: no such file"),
        ("```\nmake quickstrat\n```", "no target quickstrat"),
        ("```\npip install -e '.[cuda11]'\n```", "no extra cuda11"),
        ("```\npython -m gpt2jax.evaluate.lm_evil\n```", "no such module"),
        ("```\npython benchmarks/kill_test.py --kill 50 --seeds\n```", "--seeds"),
        ("```\npython benchmarks/weight_types.py --rounds 3\n```", "takes no options"),
        ("```\nperl -e 1\n```", "perl: a program that nobody here knows"),
        ("```\ngpt2jax generate 'x\n```", "No closing quotation"),
        ("```console\n$ gpt2jax info --all\njax 1\n```", "--all"),
        ("```pyhton\nx\n```", "pyhton: a language that nobody here knows"),
        ("with `mine.yaml`:\n\n```yaml\nmodel: {n_head: 5}\n```", "should be a multiple"),
        ("```yaml\ntraining: {step: 3}\n```", "training.step: unknown key (nearest: steps)"),
        ("```yaml\nmodel: {n_head: 5\n```", "not valid YAML"),
        ("`gpt2jax report runs/* --cvs x.csv`", "--cvs"),
        ("`--training.pateince 5`", "no program has --training.pateince"),
        ("`training.pateince: 5`", "no setting pateince in training"),
    ],
)
def test_a_slip_is_seen(page: str, problem: str) -> None:
    found = list(problems(page))
    assert any(problem in line for line in found), found


def test_settings_that_a_page_shows_are_those_of_its_commands() -> None:
    page = "```\ngpt2jax train mine.yaml --training.keep-every 1000\n```\nwith `mine.yaml`:\n\n```yaml\n{}\n```"
    shown = page.replace("{}", "training: {checkpoint_interval: 300}")
    assert list(problems(page)) == []
    assert "keep_every: 1000: should be a multiple" in next(problems(shown))
