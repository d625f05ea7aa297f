"""Converting as a user does it: what is written, what is said, and that nothing is left of what failed."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import gpt2jax
from gpt2jax import checkpoint, tokenizer
from gpt2jax.cli import main
from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.weights import bundle, table
from gpt2jax.weights.convert import convert
from gpt2jax.weights.layout import OPENAI
from gpt2jax.weights.nanogpt import GELU
from gpt2jax.weights.openai import hparams_json
from gpt2jax.weights.sources import open_weights
from gpt2jax.weights.weights import Format
from tests.helpers import TINY
from tests.weights.helpers import FIXTURES, FORMATS, GOLDEN, copied, flip, held, params_of, reference, same, write

GPT2_VOCABULARY = ModelConfig(n_vocab=50257, n_ctx=8, n_embd=8, n_head=2, n_layer=2)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with a folder of weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPT2JAX_CACHE", str(tmp_path / "cache"))
    copied(GOLDEN / "safetensors", tmp_path)
    return tmp_path


def test_the_command_converts_and_says_what_it_did(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "safetensors", "out.bin", "--to", "llmc", "--dtype", "bfloat16"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "read safetensors: huggingface, 1,984 parameters"
    assert "note: the format carries no checksum: damage inside the numbers would not be noticed" in out
    assert out[-1] == "wrote out.bin: llmc, bfloat16"
    assert main(["convert", "out.bin", "back", "--to", "openai"]) == 0
    assert main(["convert", "back", "again", "--to", "orbax"]) == 0
    assert "note: the checksums (CRC-32C) of all tensors are compared" in capsys.readouterr().out
    assert main(["convert", "again", "last", "--to", "nanogpt"]) == 0
    assert open_weights("last").config == ModelConfig(n_vocab=20, n_ctx=8, n_embd=8, n_head=2, n_layer=2)


def error(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(list(args)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_every_mistake_is_one_line_and_writes_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.rglob("*"))
    assert "'pytorch'" in error(capsys, "convert", "safetensors", "out", "--to", "pytorch")
    assert "'int8'" in error(capsys, "convert", "safetensors", "out", "--to", "orbax", "--dtype", "int8")
    assert "exists and is not empty" in error(capsys, "convert", "safetensors", "safetensors", "--to", "orbax")
    assert "safetensors/config.json: exists" in error(
        capsys, "convert", "safetensors", "safetensors/config.json", "--to", "orbax"
    )
    assert "should end in .bin" in error(capsys, "convert", "safetensors", "out", "--to", "llmc")
    Path("empty.bin").mkdir()
    assert "be no folder" in error(capsys, "convert", "safetensors", "empty.bin", "--to", "llmc")
    Path("empty.bin").rmdir()
    assert "model: ''" in error(capsys, "convert", "", "out", "--to", "orbax")
    assert "no model's name (nearest: gpt2)" in error(capsys, "convert", "gpt-2", "out", "--to", "orbax")
    assert "config.json/out: cannot be written" in error(
        capsys, "convert", "safetensors", "safetensors/config.json/out", "--to", "openai"
    )
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize("to", FORMATS)
def test_nothing_is_left_of_a_conversion_that_fails(tmp_path: Path, to: Format) -> None:
    """A damaged tensor is met when much has been written."""
    source = copied(FIXTURES / "openai_tf_tiny", tmp_path)
    flip(source / "model.ckpt.data-00000-of-00001", 11_000)
    target = tmp_path / ("out.bin" if to == "llmc" else "out")
    with pytest.raises(GPT2JaxError, match="checksum"):
        convert(open_weights(source), target, to, progress=False)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("to", FORMATS)
def test_a_target_that_does_not_fit_is_refused_before_anything_is_read(
    tmp_path: Path, to: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    for free, dtype in ((7935, "float32"), (3967, "bfloat16")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage._replace(free=free))
        target = tmp_path / "deep" / ("out.bin" if to == "llmc" else "out")
        with pytest.raises(GPT2JaxError, match=f"needs {free + 1:,} bytes of disk: {free:,} are free"):
            convert(open_weights(GOLDEN / "safetensors"), target, to, dtype, progress=False)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", FORMATS)
def test_nothing_is_left_when_the_disk_fills_up_meanwhile(
    tmp_path: Path, to: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit on the size of files, which the system enforces as it does the disk's."""
    target = tmp_path / ("out.bin" if to == "llmc" else "out")
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "from gpt2jax.cli import main;"
        "sys.exit(main(sys.argv[1:]))"
    )
    monkeypatch.setenv("GPT2JAX_CACHE", str(tmp_path.with_name(f"{tmp_path.name}-cache")))
    command = [sys.executable, "-c", code, "convert", str(FIXTURES / "hf_tiny"), str(target), "--to", to]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    # Threads of tensorstore's that lose their event loop may print more around it, on the same line too.
    [line] = re.findall("gpt2jax: .*", done.stderr)
    assert "cannot be written" in line
    assert "File too large" in line
    assert list(tmp_path.iterdir()) == []


def test_warnings_are_lines_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "safetensors" / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(raw)
    assert main(["convert", "safetensors", "out", "--to", "openai"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("gpt2jax: warning: safetensors: ")
    assert "1 of its values are NaN or infinite" in err
    assert err.count("\n") == 1


def test_hugging_faces_folder_is_whole(tmp_path: Path) -> None:
    weights = held(GPT2_VOCABULARY, encoding=tokenizer.gpt2())
    folder = write(weights, tmp_path, "huggingface")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    ]
    tensors = load_file(folder / "model.safetensors")
    assert len(tensors) == 12 * 2 + 4
    assert tensors["transformer.wte.weight"].shape == (50257, 8)
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == 50256
    assert "50,257 byte pairs" in (folder / "README.md").read_text()


def test_openais_folder_is_whole(tmp_path: Path) -> None:
    folder = write(held(GPT2_VOCABULARY, encoding=tokenizer.gpt2()), tmp_path, "openai")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "checkpoint",
        "encoder.json",
        "hparams.json",
        "model.ckpt.data-00000-of-00001",
        "model.ckpt.index",
        "vocab.bpe",
    ]
    assert (folder / "checkpoint").stat().st_size == 77
    assert gpt2jax.load(folder).tokenizer is tokenizer.gpt2()


@pytest.mark.parametrize(
    ("sizes", "hparams", "index", "data"),
    [((768, 12, 12), 90, 5_215, 497_759_232), ((1024, 16, 24), 91, 10_399, 1_419_292_672)],
)
def test_files_of_openais_would_have_their_published_sizes(
    sizes: tuple[int, int, int], hparams: int, index: int, data: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without writing the numbers: sizes of the index depend on names, shapes and places alone."""
    config = ModelConfig(n_embd=sizes[0], n_head=sizes[1], n_layer=sizes[2])
    shapes = {name: OPENAI.shape(row, config) for name, row, _ in OPENAI.names(config)}
    monkeypatch.setattr(bundle, "masked_crc", lambda array: 0x12345678)
    empty = np.broadcast_to(np.zeros((), np.float32), (0,))
    bundle.write_bundle(tmp_path / "model.ckpt", shapes, "float32", ((name, empty) for name in shapes))
    assert (tmp_path / "model.ckpt.index").stat().st_size == index
    entries = dict(table.read_table(bundle.MappedFile(tmp_path / "model.ckpt.index")))
    assert len(entries) == 12 * config.n_layer + 4 + 1
    assert sum(4 * int(np.prod(shape)) for shape in shapes.values()) == data
    assert len(hparams_json(config)) == hparams


def test_a_vocabulary_goes_with_its_model(tmp_path: Path) -> None:
    characters = tokenizer.characters("".join(chr(97 + number) for number in range(26)))
    config = ModelConfig(n_vocab=26, n_ctx=8, n_embd=8, n_head=2, n_layer=2)
    for number, encoding in enumerate((tokenizer.byte_level(), characters)):
        weights = held(TINY if number == 0 else config, encoding=encoding)
        kept_by: dict[Format, bool] = {
            "orbax": True,
            "huggingface": True,
            "openai": number == 0,
            "nanogpt": number == 1,
            "llmc": False,
        }
        for to, kept in kept_by.items():
            folder = tmp_path / str(number)
            target = folder / (f"{to}.bin" if to == "llmc" else to)
            notes = convert(weights, target, to, progress=False)
            found = gpt2jax.load(target).tokenizer
            assert (found is not None) == kept, to
            if found is not None:
                assert tokenizer.to_spec(found) == tokenizer.to_spec(encoding)
            lost = [] if kept else [f"{to}'s form has no place for a vocabulary of {encoding.name}"]
            assert notes == ([GELU, *lost] if to == "nanogpt" else lost)


@pytest.mark.parametrize("to", ["openai", "nanogpt", "llmc"])
def test_an_epsilon_that_a_form_has_fixed_cannot_change(tmp_path: Path, to: Format) -> None:
    weights = held(ModelConfig(n_vocab=20, n_ctx=8, n_embd=8, n_head=2, n_layer=2, layer_norm_epsilon=1e-6))
    with pytest.raises(GPT2JaxError, match=f"layer_norm_epsilon: 1e-06: should be 1e-05, which {to}'s program"):
        write(weights, tmp_path, to)
    assert gpt2jax.load(write(weights, tmp_path, "huggingface")).config.layer_norm_epsilon == 1e-6


def test_a_converted_checkpoint_says_what_it_is(tmp_path: Path) -> None:
    path = write(held(TINY, encoding=tokenizer.byte_level()), tmp_path, "orbax")
    meta = checkpoint.read_meta(path)
    assert (meta.step, meta.model) == (0, TINY)
    assert meta.encoding is tokenizer.byte_level()
    assert checkpoint.find(path) == (path, 0)


def test_a_file_that_is_named_is_the_one_that_is_read(tmp_path: Path) -> None:
    for path in (GOLDEN / "zip" / "pytorch_model.bin", GOLDEN / "nanogpt" / "ckpt.pt"):
        assert same(params_of(path), reference())
    both = copied(GOLDEN / "bfloat16", tmp_path)
    shutil.copy(GOLDEN / "zip" / "pytorch_model.bin", both / "model-v2.bin")
    assert same(params_of(both / "model-v2.bin"), reference())
    assert not same(params_of(both), reference())
    two = copied(GOLDEN / "tf_bfloat16", tmp_path)
    for end in ("index", "data-00000-of-00001"):
        shutil.copy(GOLDEN / "tf_float16" / f"model.ckpt.{end}", two / f"model-7.{end}")
    assert same(params_of(two / "model-7.index"), params_of(GOLDEN / "tf_float16"))
    assert not same(params_of(two), params_of(GOLDEN / "tf_float16"))
    with pytest.raises(GPT2JaxError, match="not a file of GPT-2 weights"):
        open_weights(two / "hparams.json")
