"""Large jobs: every prompt once, in order, however often the job is stopped."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from gpt2jax import parameters, tokenizer
from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate import jobs
from gpt2jax.generate.jobs import read_prompts, run_job
from gpt2jax.generate.text import TextModel
from gpt2jax.weights.convert import convert
from gpt2jax.weights.weights import HeldWeights, Origin
from tests.generate.helpers import sampling
from tests.helpers import run_two_processes

CONFIG = ModelConfig(n_vocab=257, n_ctx=64, n_embd=32, n_head=4, n_layer=2)
SAMPLING = sampling(max_new_tokens=6, num_samples=2)
PROMPTS = ["x" * (1 + number * 7 % 20) + str(number) for number in range(23)]


@pytest.fixture(scope="module")
def writer() -> TextModel:
    return TextModel.from_params(parameters.init(jax.random.key(0), CONFIG), CONFIG, tokenizer.byte_level())


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "WINDOW_BATCHES", 1)


def test_lines_are_in_the_order_of_the_prompts(writer: TextModel, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out.jsonl"
    assert run_job(writer, PROMPTS, output, SAMPLING, batch_size=4, progress=False) == 23
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["prompt"] for line in lines] == PROMPTS
    for prompt, line in zip(PROMPTS[:3], lines, strict=False):
        assert line["texts"] == [prompt + text for text in writer.write([prompt], SAMPLING)[0]]
        assert set(line["finish_reasons"]) <= {"length", "stop"}
    assert list(output.parent.iterdir()) == [output]
    with pytest.raises(GPT2JaxError, match="exists"):
        run_job(writer, PROMPTS, output, SAMPLING, progress=False)


def _interrupted_at(call: int, writer: TextModel, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the job until its ``call``-th window, which Ctrl-C interrupts."""
    sample, calls = TextModel.sample, []

    def failing(self: TextModel, *args: object, **rest: object) -> object:
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        return sample(self, *args, **rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(TextModel, "sample", failing)
        with pytest.raises(KeyboardInterrupt):
            run_job(writer, PROMPTS, output, SAMPLING, batch_size=4, progress=False)


def test_a_stopped_job_goes_on_and_ends_the_same(
    writer: TextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_windows: None
) -> None:
    whole = tmp_path / "whole.jsonl"
    run_job(writer, PROMPTS, whole, SAMPLING, batch_size=4, progress=False)
    output = tmp_path / "out.jsonl"
    partial = tmp_path / "out.jsonl.partial"
    _interrupted_at(call=3, writer=writer, output=output, monkeypatch=monkeypatch)
    assert not output.exists()
    assert len(partial.read_text().splitlines()) == 8
    partial.write_text(partial.read_text() + '{"prompt": "half of a li')  # A crash in the middle of a write.
    assert run_job(writer, PROMPTS, output, SAMPLING, batch_size=4, progress=False) == 15
    assert output.read_text() == whole.read_text()
    assert not partial.exists()


def test_a_partial_file_of_another_job_is_not_continued(
    writer: TextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_windows: None
) -> None:
    output = tmp_path / "out.jsonl"
    _interrupted_at(call=2, writer=writer, output=output, monkeypatch=monkeypatch)
    before = (tmp_path / "out.jsonl.partial").read_bytes()
    for prompts, settings, log_probs in (
        (PROMPTS[:-1], SAMPLING, 0),
        (PROMPTS, dataclasses.replace(SAMPLING, seed=1), 0),
        (PROMPTS, SAMPLING, 1),
    ):
        with pytest.raises(GPT2JaxError, match="of a job with another model, prompts or settings"):
            run_job(writer, prompts, output, settings, log_probs=log_probs, progress=False)
    assert (tmp_path / "out.jsonl.partial").read_bytes() == before
    assert run_job(writer, PROMPTS, output, SAMPLING, batch_size=3, progress=False) == 19
    assert list(tmp_path.iterdir()) == [output]


def test_any_character_goes_in_and_out(writer: TextModel, tmp_path: Path) -> None:
    prompts = ["one\u2028two", "\x85\x0c", "é🤗", "\ud800"]
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps(prompt, ensure_ascii=number > 2) + "\n" for number, prompt in enumerate(prompts)),
        encoding="utf-8",
    )
    assert read_prompts(tmp_path / "in.jsonl") == prompts
    output = tmp_path / "out.jsonl"
    run_job(writer, prompts, output, SAMPLING, progress=False)
    assert [json.loads(line)["prompt"] for line in output.read_text().split("\n")[:-1]] == prompts


def test_every_prompt_is_checked_before_anything_is_written(writer: TextModel, tmp_path: Path) -> None:
    with pytest.raises(GPT2JaxError, match="prompt 24: 64 tokens"):
        run_job(writer, [*PROMPTS, "y" * 64], tmp_path / "out.jsonl", SAMPLING, progress=False)
    with pytest.raises(GPT2JaxError, match="prompts: none"):
        run_job(writer, [], tmp_path / "out.jsonl", SAMPLING, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_log_probabilities_are_in_the_lines(writer: TextModel, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    run_job(writer, ["a"], output, sampling(max_new_tokens=3, forced_tokens=(9,)), log_probs=2, progress=False)
    line = json.loads(output.read_text())
    assert line["tokens"][0][0] == 9
    assert line["log_probs"][0][0] is None
    assert [len(top) for top in line["top_log_probs"][0]] == [0, 2, 2]


def test_log_probabilities_of_prompts_are_in_the_lines(writer: TextModel, tmp_path: Path) -> None:
    prompts, output = ["abc", "a", "y" * 80], tmp_path / "out.jsonl"
    settings = sampling(max_new_tokens=3, num_samples=2, truncate="left")
    run_job(writer, prompts, output, settings, log_probs=2, prompt_log_probs=True, progress=False)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [len(line["prompt_tokens"]) for line in lines] == [3, 1, 61]  # As they were read.
    [score] = writer.score(["abc"], alternatives=2)
    assert lines[0]["prompt_log_probs"] == [None, *score.log_probs]
    [other] = writer.score(["acb"])
    assert lines[0]["prompt_log_probs"] != [None, *other.log_probs]
    assert lines[0]["prompt_top_log_probs"][1:] == [[list(pair) for pair in top] for top in score.top]
    assert all(len(line["prompt_log_probs"]) == len(line["prompt_tokens"]) for line in lines)


# Each process writes with a model of its own.
WORKER = """
import sys
from pathlib import Path
import jax
folder, port, process = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
from gpt2jax.config import MeshConfig, SamplingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.jobs import run_job
from gpt2jax.generate.text import TextModel
from gpt2jax.partition import Partition, make_mesh
import dataclasses
prompts = [f"prompt {number}" for number in range(7)]
model = TextModel.load(folder / "model")

def run(seed, model=model):
    return run_job(model, prompts, folder / "out.jsonl", SamplingConfig(max_new_tokens=4, seed=seed), batch_size=2,
                   progress=False)

def refused(message, seed, model=model):
    try:
        run(seed, model)
    except GPT2JaxError as error:
        assert message in str(error), error
    else:
        raise AssertionError("not refused")

def meet(name):
    jax.experimental.multihost_utils.sync_global_devices(name)

import jax.experimental.multihost_utils
refused("mesh: over several processes", 0, dataclasses.replace(model, place=Partition(make_mesh(MeshConfig()))))
# The first process is done before the other begins; started again it has nothing to do, with other settings it may not.
if process == 0:
    assert run(0) == 4
    assert run(0) == 0
    refused("out.jsonl.0-of-2: is of a job with another model, prompts or settings", 1)
meet("one")
if process == 1:
    refused("is of a job with another model, prompts or settings", 1)
    (folder / "out.jsonl.1-of-2").unlink()
    (folder / "out.jsonl.1-of-2.partial.job").unlink()
    assert run(0) == 3
meet("two")
refused("out.jsonl: exists", 0)
"""


def test_two_processes_write_the_file_of_one(writer: TextModel, tmp_path: Path) -> None:
    held = HeldWeights(Origin("random", "memory", CONFIG, writer.encoding), parameters.init(jax.random.key(0), CONFIG))
    convert(held, tmp_path / "model", "orbax")
    run_two_processes(WORKER, tmp_path)
    prompts = [f"prompt {number}" for number in range(7)]
    run_job(writer, prompts, tmp_path / "alone.jsonl", sampling(max_new_tokens=4), batch_size=2, progress=False)
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "alone.jsonl").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out.jsonl", "alone.jsonl"}
    # Dealt out otherwise it would be another file.
    lines = (tmp_path / "alone.jsonl").read_text().splitlines()
    assert lines != lines[::2] + lines[1::2]


def test_prompts_are_read_from_lines(tmp_path: Path) -> None:
    lines, plain = tmp_path / "a.jsonl", tmp_path / "a.txt"
    lines.write_text('"one"\n\n{"prompt": "two\\n", "other": 1}\n', encoding="utf-8")
    plain.write_text("one\ntwo é\n\n", encoding="utf-8")
    assert read_prompts(lines) == ["one", "two\n"]
    assert read_prompts(plain) == ["one", "two é"]
    plain.write_bytes(b"\xef\xbb\xbfone\r\ntwo\x0cthree\r\n")
    assert read_prompts(plain) == ["one", "two\x0cthree"]
    for text, message in (("{", "line 1: not JSON"), ('{"text": 1}', "line 1: should be a string"), ("3", "line 1")):
        lines.write_text(text)
        with pytest.raises(GPT2JaxError, match=message):
            read_prompts(lines)
    with pytest.raises(GPT2JaxError, match="cannot be read"):
        read_prompts(tmp_path / "none.jsonl")
