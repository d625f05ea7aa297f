"""Estimates, on CPU devices that stand in and, where their compilers are installed, of programs for TPUs and GPUs."""

import dataclasses
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from gpt2jax import attention, lora, parameters, tokenizer
from gpt2jax.chips import CHIPS
from gpt2jax.cli import main
from gpt2jax.config import Config, LoraConfig, MeshConfig, ModelConfig, TrainingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.plan import cuda, show
from gpt2jax.plan.estimate import _computed_flops_per_token, _splash_flops, compile_for, plan_model, plan_training
from gpt2jax.plan.generating import plan_generating
from gpt2jax.plan.search import candidates, search
from gpt2jax.plan.topology import parse_topology
from gpt2jax.presets import preset
from gpt2jax.train.objective import loss_sum
from gpt2jax.train.step import make_place
from gpt2jax.train.utilization import Utilization
from gpt2jax.weights.sources import config_of
from tests.weights.helpers import held, write

ROOT = Path(__file__).parents[2]
SMALL = Config(
    model=ModelConfig(n_vocab=257, n_ctx=128, n_embd=64, n_head=4, n_layer=3),
    mesh=MeshConfig(data=2, fsdp=4, max_whole=0.2),
    training=TrainingConfig(batch_size=16, steps=1000),
)
EIGHT = parse_topology("h100-8")


def change(config: Config, section: str, **changes: object) -> Config:
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **changes)})


@pytest.fixture(scope="module")
def estimate():  # type: ignore[no-untyped-def]
    return plan_training(SMALL, EIGHT)


def test_what_a_device_holds_and_does(estimate) -> None:  # type: ignore[no-untyped-def]
    whole = 4 * sum(leaf.size for leaf in jax.tree.leaves(parameters.abstract(SMALL.model)))
    assert whole / 4 < estimate.memory["parameters"] < 1.6 * whole / 4  # What fsdp does not cut lies whole.
    assert estimate.memory["optimizer state"] == pytest.approx(2 * estimate.memory["parameters"], abs=16)
    assert estimate.fits
    assert estimate.tokens == 16 * 128
    tokens = parameters.train_flops_per_token(SMALL.model, 128)
    assert estimate.model_flops == 16 * 128 * tokens
    assert estimate.seconds == max(estimate.compute_seconds, estimate.memory_seconds) + estimate.network_seconds
    assert estimate.mfu == pytest.approx(estimate.model_flops / estimate.seconds / (8 * 989e12))
    kinds = {one.kind for one in estimate.collectives}
    assert {"all-reduce", "all-gather"} <= kinds
    assert not estimate.own


def test_the_report_says_all_of_it(estimate) -> None:  # type: ignore[no-untyped-def]
    text = show.report(estimate, 2e6)
    said = ["h100-8: 8 x h100", "mesh: data 2, fsdp 4, tensor 1", "CPU devices in its place", "all-gather", "binds"]
    for part in [
        *said,
        "of 59.7, which JAX takes of 79.6 (XLA_PYTHON_CLIENT_MEM_FRACTION): fits",
        f"{estimate.tokens_per_second:,.0f} tokens/s",
        "for 2e+06 tokens",
    ]:
        assert part in text
    small = dataclasses.replace(estimate, memory={"parameters": 61 * 2**30})
    assert not small.fits
    assert "does not fit, by 1.30 GiB" in show.report(small, 2e6)
    assert ", at most" in text


def test_the_slowest_of_what_goes_on_at_once_is_the_time(estimate) -> None:  # type: ignore[no-untyped-def]
    hidden = dataclasses.replace(estimate, busy_seconds=0.01, network_seconds=0.1, exposed_seconds=0.02)
    assert hidden.seconds == pytest.approx(0.08 + 0.02)
    assert dataclasses.replace(hidden, busy_seconds=0.2).seconds == pytest.approx(0.2 + 0.02)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Ran out of memory on HBM, the total memory required for HLO temporaries (333.01G) exceeds available HBM"
         " (15.75G).", "does not fit, by 317.26 GiB: the step takes 333.01 GiB of 15.75 on each chip"),
        ("Ran out of memory in memory space hbm. Used 16.25G of 15.75G hbm. Exceeded hbm capacity by 512.00M.",
         "does not fit, by 0.50 GiB"),
        ("Ran out of memory in memory space vmem. Used 20.0M of 16.0M vmem.", "the compiler runs out of memory: RES"),
    ],
)  # fmt: skip
def test_a_program_that_is_too_large_is_one_line(text: str, line: str) -> None:
    class Lowered:
        def compile(self) -> None:
            raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {text}")

    with pytest.raises(GPT2JaxError, match=r"^topology: 'h100-8': ") as caught:
        compile_for(EIGHT, Lowered())
    assert line in str(caught.value)


def product_flops(jaxpr: Any) -> float:
    """Of all matrix products, as often as they are computed; of the branches for a platform each, one is."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond":
            total += max(product_flops(branch) for branch in equation.params["branches"])
            continue
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            summed = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2.0 * equation.outvars[0].aval.size * summed
        turns = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        inner = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda node: hasattr(node, "eqns"))
        total += turns * sum(product_flops(one) for one in inner if hasattr(one, "eqns"))
    return total


@pytest.mark.parametrize("remat", ["none", "full"])
def test_operations_are_those_of_the_program(remat: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in the jaxpr, with attention in blocks of few queries, each against the keys that it may see."""
    monkeypatch.setattr(attention, "QUERY_BLOCK", 16)
    model = dataclasses.replace(SMALL.model, n_ctx=512, remat=remat)  # type: ignore[arg-type]
    window_BT1 = jax.numpy.zeros((1, 513), "int32")
    of = jax.grad(lambda params: loss_sum(params, window_BT1, model, chunk=512)[0])
    jaxpr = jax.make_jaxpr(of)(parameters.abstract(model)).jaxpr
    assert product_flops(jaxpr) / 512 == pytest.approx(_computed_flops_per_token(Config(model=model)), rel=0.02)


def test_adapters_alone_have_gradients_and_state(estimate, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(attention, "QUERY_BLOCK", 16)
    config = dataclasses.replace(change(SMALL, "model", n_ctx=512), lora=LoraConfig(rank=4))
    model, window_BT1 = config.model, jax.numpy.zeros((1, 513), "int32")

    def loss(learned: Any, held: Any) -> Any:
        return loss_sum(lora.scaled(held | learned, config.lora), window_BT1, model, chunk=512)[0]

    params = parameters.abstract(model)
    jaxpr = jax.make_jaxpr(jax.grad(loss))(lora.abstract(config.lora, model), params).jaxpr
    table = 2.0 * model.padded_vocab * model.n_embd  # The gradient of the table, which the compiler drops as unused.
    assert product_flops(jaxpr) / 512 - table == pytest.approx(_computed_flops_per_token(config), rel=0.02)
    adapted = plan_training(dataclasses.replace(SMALL, lora=LoraConfig(rank=4)), EIGHT)
    assert adapted.memory["optimizer state"] < 0.25 * estimate.memory["optimizer state"]
    assert adapted.memory["parameters"] > estimate.memory["parameters"]
    # As the run itself counts.
    place = make_place(SMALL)
    run = Utilization(dataclasses.replace(SMALL, lora=LoraConfig(rank=4)), place.mesh)
    assert adapted.model_flops == 16 * 128 * run.flops_per_token < estimate.model_flops


def test_more_micro_batches_hold_less_and_exchange_as_much_or_more(estimate) -> None:  # type: ignore[no-untyped-def]
    config = change(SMALL, "training", batch_size=32)
    one, four = (plan_training(change(config, "training", micro_batches=parts), EIGHT) for parts in (1, 4))
    held = "activations and temporaries"
    assert four.memory[held] < one.memory[held]
    assert sum(c.count for c in four.collectives) > sum(c.count for c in one.collectives)
    assert four.model_flops == one.model_flops == 2 * estimate.model_flops


def test_a_cpu_stand_in_keeps_no_attention_weights_unless_told(estimate) -> None:  # type: ignore[no-untyped-def]
    """As the kernel in whose place it stands."""
    assert estimate.kernel == "xla, in the place of cudnn"
    told = plan_training(change(SMALL, "model", attention="xla"), EIGHT)
    assert told.kernel == "xla"
    held = "activations and temporaries"
    assert estimate.memory[held] < told.memory[held]


def test_operations_of_splash_are_counted_by_blocks() -> None:
    model = ModelConfig(n_ctx=1024, n_embd=64, n_head=1, n_layer=1)
    # Forward: 3 of 4 blocks of 512; backward: keys 1024 at a time, all of them.
    forward, backward = 2 * 3 * 512 * 512, 5 * 1024 * 1024
    assert _splash_flops(model, 2) == 2 * 2 * 64 * (forward + backward)
    assert _splash_flops(dataclasses.replace(model, remat="full"), 2) == 2 * 2 * 64 * (2 * forward + backward)


def test_sampling_reads_parameters_and_cache_for_every_token() -> None:
    config = change(SMALL, "mesh", data=4, fsdp=1, tensor=2)
    found = plan_generating(config, EIGHT, rows=8)
    cache = 2 * 3 * 2 * 2 * 128 * 16 * 2  # k and v, layers, rows and heads of a device, context, width, bfloat16
    assert found.memory["keys and values"] == cache
    assert found.tokens == 8
    assert "time of a token in every row" in show.report(found, None)
    fewer = plan_generating(config, EIGHT, rows=6)
    assert (fewer.memory, fewer.tokens) == (found.memory, 6)


@pytest.mark.parametrize(
    ("chip", "rows", "written"), [("v6e-1", 1, 1), ("h100-1", 1, 2), ("v6e-1", 3, 4), ("h100-1", 4, 4)]
)
def test_sampling_holds_the_rows_that_texts_are_filled_up_to(chip: str, rows: int, written: int) -> None:
    found = plan_generating(change(SMALL, "mesh", data=1, fsdp=1), parse_topology(chip), rows=rows)
    a_row = 2 * 3 * 4 * 128 * 16 * 2  # k and v, layers, heads, context, width, bfloat16
    assert (found.memory["keys and values"], found.tokens) == (written * a_row, rows)
    computed = found.compute_seconds * found.topology.chip.peak_tflops * 1e12
    assert computed / found.model_flops == pytest.approx(written / rows)


def test_a_search_ranks_what_fits() -> None:
    told: list[str] = []
    ranked = search(SMALL, EIGHT, 3, told.append)
    assert len(told) == 3
    assert [one.seconds for one in ranked] == sorted(one.seconds for one in ranked)
    assert "micro-batches" in show.table(ranked).splitlines()[0]
    for one in candidates(SMALL, EIGHT):
        mesh = one.config.mesh
        assert mesh.data * mesh.fsdp * mesh.tensor == 8
        assert SMALL.training.batch_size // one.config.training.micro_batches % (mesh.data * mesh.fsdp) == 0
    # A batch that doubles on its way begins with a part of the micro-batches.
    parts = {one.config.training.micro_batches for one in candidates(SMALL, EIGHT)}
    ramped = change(SMALL, "training", micro_batches=4, ramp=(2, 4))
    assert {one.config.training.micro_batches for one in candidates(ramped, EIGHT)} == parts & {4, 8, 16} != parts
    # Of a number of chips that 8 does not divide, every candidate takes all.
    for one in candidates(SMALL, parse_topology("h200:3x4")):
        mesh = one.config.mesh
        assert mesh.data * mesh.fsdp * mesh.tensor == 12
    xl = change(Config(model=ModelConfig(**preset("gpt2-xl"))), "training", batch_size=512)  # type: ignore[arg-type]
    # 25 heads, and a vocabulary of 128 times 393.
    assert {one.config.mesh.tensor for one in candidates(xl, parse_topology("v5e-256"))} == {1}
    with pytest.raises(GPT2JaxError, match="search: no mesh of 8 chips divides the model and 7 sequences"):
        search(change(SMALL, "training", batch_size=7), EIGHT, 3, told.append)


SETTINGS = """
model: {n_vocab: 257, n_ctx: 128, n_embd: 64, n_head: 4, n_layer: 3}
mesh: {max_whole: 0.2}
training: {batch_size: 16, steps: 10}
"""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "plan: needs a settings file"),
        (["s.yaml"], "topology: '': should be a chip and how many"),
        (["s.yaml", "--topology", "v5e-17"], "topology: 'v5e-17': should be one of"),
        (["s.yaml", "--topology", "h100-8", "--mesh.fsdp", "3"], "mesh: data=-1, fsdp=3, tensor=1: should multiply"),
        (
            ["s.yaml", "--topology", "h100-8", "--training.batch-size", "4"],
            "batch: 4: should be a multiple of the mesh",
        ),
        (["s.yaml", "--topology", "h100-8", "--slices", "0"], "slices: 0: should be at least 1"),
        (["s.yaml", "--topology", "h100-8", "--tokens", "0"], "tokens: 0.0: should be above 0"),
        (["s.yaml", "--topology", "h100-8", "--verb", "generate", "--search", "2"], "search: goes with --verb train"),
        (["s.yaml", "--topology", "h100-8", "--verb", "generate", "--tokens", "9"], "tokens: goes with --verb train"),
        (["s.yaml", "--topology", "h100-8", "--rows", "8"], "rows: goes with --verb generate"),
        (["s.yaml", "--topology", "h100-8", "--search", "2", "--mesh.data", "8"], "mesh.data: is what --search tries"),
        (["s.yaml", "--topology", "h100-8", "--slices", "2"], "slices: 2: goes with TPUs"),
        (["s.yaml", "--topology", "h100-8", "--model.attention", "splash"], "'splash': h100 has cudnn"),
        (["s.yaml", "--topology", "h100-8", "--model.compute-dtype", "float32"], "compute_dtype: 'float32': a plan"),
    ],
)
def test_mistakes_are_one_line(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gpt2jax.cli.plan.start", lambda devices: None)  # The tests' eight are started.
    (tmp_path / "s.yaml").write_text(SETTINGS)
    assert main(["plan", *args]) == 2
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1]


def test_the_command_prints_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gpt2jax.cli.plan.start", lambda devices: None)  # The tests' eight are started.
    (tmp_path / "s.yaml").write_text(SETTINGS)
    assert main(["plan", "s.yaml", "--topology", "l4-8", "--tokens", "1e9"]) == 0
    out = capsys.readouterr().out
    assert "mesh: data 8, fsdp 1, tensor 1" in out
    assert "for 1e+09 tokens" in out
    # Two steps of 4 sequences, three of 8, five of 16.
    assert (
        main(["plan", "s.yaml", "--topology", "l4-4", "--training.ramp", "2", "5", "--training.micro-batches", "4"])
        == 0
    )
    assert f"for {(2 * 4 + 3 * 8 + 5 * 16) * 128:.3g} tokens" in capsys.readouterr().out
    wide = "model: {n_vocab: 128, n_ctx: 8, n_embd: 14336, n_head: 8, n_layer: 1}\ntraining: {batch_size: 1}\n"
    (tmp_path / "wide.yaml").write_text(wide)
    assert main(["plan", "wide.yaml", "--topology", "t4-1"]) == 2
    assert "topology: 't4-1': of 11.2, which JAX takes of 15" in capsys.readouterr().err


def test_settings_of_fine_tuning_are_planned_with_the_sizes_of_their_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gpt2jax.cli.plan.start", lambda devices: None)  # The tests' eight are started.
    monkeypatch.setenv("GPT2JAX_OFFLINE", "1")  # What a released model is like is known without its files.
    model = ModelConfig(n_vocab=257, n_ctx=32, n_embd=256, n_head=4, n_layer=4)
    source = write(held(model, encoding=tokenizer.byte_level()), tmp_path, "huggingface")
    (tmp_path / "s.yaml").write_text("training: {batch_size: 8}\nlora: {rank: 2}\n")
    args = ["plan", "s.yaml", "--topology", "l4-8", "--init-from", str(source)]
    whole = parameters.count(model) * 4 / 2**30
    for more, states in (([], 0.0), (["--lora.rank=0"], 2.0), (["--lora.rank=0", "--optimizer.name=lion"], 1.0)):
        assert main([*args, *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        sizes = {
            line[2:34].strip(): float(line.split()[-1]) for line in lines if line.startswith(("  param", "  optim"))
        }
        assert sizes["parameters"] == pytest.approx(whole, abs=1e-3)
        assert sizes["optimizer state"] == pytest.approx(states * whole, abs=1e-3)
    assert config_of("355M").n_layer == 24


def test_many_chips_are_stood_in_for(tmp_path: Path) -> None:
    """More than there are threads by default, in a process of its own, as from the command line."""
    (tmp_path / "s.yaml").write_text("model: {n_vocab: 128, n_ctx: 8, n_embd: 16, n_head: 2, n_layer: 1}\n")
    command = ["plan", str(tmp_path / "s.yaml"), "--topology", "h100-64", "--training.batch-size", "64"]
    code = f"""
from gpt2jax.cli import main
from gpt2jax.plan import topology
topology.has_compiler = lambda topology: False
raise SystemExit(main({command}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mesh: data 64, fsdp 1, tensor 1" in done.stdout


def told(code: str) -> Any:
    """What ``code`` prints as JSON in a process of its own: a compiler for chips stays in the one that loads it."""
    before = """
import json
from gpt2jax.plan.estimate import plan_training
from gpt2jax.plan.generating import plan_generating
from gpt2jax.plan.topology import parse_topology
from tests.plan.test_estimate import SMALL, change
from gpt2jax.cli.parse import start
start(1)
config = change(change(SMALL, "model", n_head=2, n_embd=128), "mesh", data=4, fsdp=4)
"""
    command = [sys.executable, "-c", before + code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu (extra plan), to compile for TPUs")
def test_programs_for_tpus() -> None:
    code = """
found = plan_training(config, parse_topology("v5e-16"))
dropping = plan_training(change(config, "model", dropout=0.1), parse_topology("v5e-16"))
assert dropping.kernel == "xla (not splash: it drops no attention weights (model.dropout))", dropping.kernel
assert dropping.busy_parts["attention kernel"] == 0
print(json.dumps([found.kernel, found.own, found.busy_seconds, found.memory_seconds, found.fits]))
"""
    kernel, own, busy, memory, fits = told(code)
    assert (kernel, own, fits) == ("splash", True, True)
    assert busy > memory > 0


@pytest.mark.skipif(not cuda.compiles_for("h100"), reason="needs jax's plugin for CUDA (extra cuda13), but no GPU")
def test_programs_for_gpus() -> None:
    code = """
found = plan_training(config, parse_topology("h100-16"))
dropping = plan_training(change(config, "model", dropout=0.1), parse_topology("h100-16"))
assert dropping.kernel == "xla (not cudnn: it drops no attention weights (model.dropout))", dropping.kernel
writing = plan_generating(change(config, "mesh", data=1, fsdp=1), parse_topology("h100-1"), rows=8)
assert writing.own and writing.total_bytes > 0
old = plan_training(change(config, "mesh", data=1, fsdp=1), parse_topology("t4-1"))
print(json.dumps([found.kernel, found.own, found.fits, [one.kind for one in found.collectives], old.kernel, old.own]))
"""
    kernel, own, fits, collectives, old_kernel, old_own = told(code)
    assert (kernel, own, fits) == ("cudnn", True, True)
    assert "all-gather" in collectives
    assert (old_kernel, old_own) == ("xla", True)


def test_every_gpu_is_described() -> None:
    gpus = {name: chip for name, chip in CHIPS.items() if not chip.torus}
    assert set(cuda.TARGETS) == set(gpus)
    assert [name for name in gpus if not cuda.has_cudnn_attention(name)] == ["v100", "t4"]
    assert "core_count: 58\n" in cuda.describe("l4", gpus["l4"])
    assert f"optin: {99 * 1024}\n" in cuda.describe("l4", gpus["l4"])
    assert f"optin: {64 * 1024}\n" in cuda.describe("t4", gpus["t4"])
    assert f"device_memory_size: {22.5 * 2**30:.0f}\n" in cuda.describe("l4", gpus["l4"])


def test_a_gpu_without_cudnns_attention_is_planned_without_it() -> None:
    t4 = parse_topology("t4-1")
    assert plan_model(SMALL.model, t4, own=True).attention == plan_model(SMALL.model, t4, own=False).attention == "xla"
    assert plan_model(SMALL.model, EIGHT, own=True).attention == "auto"
    with pytest.raises(GPT2JaxError, match=r"^model\.attention: 'cudnn': t4 has none; should be 'auto' or 'xla'$"):
        plan_model(dataclasses.replace(SMALL.model, attention="cudnn"), t4, own=True)
