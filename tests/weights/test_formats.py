"""Every form reads as the program that wrote it meant it, and every pair of forms goes round without loss."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import gpt2jax
from gpt2jax import tokenizer
from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.model import forward
from gpt2jax.weights.bundle import read_bundle
from gpt2jax.weights.convert import convert
from gpt2jax.weights.sources import open_weights
from gpt2jax.weights.weights import Format
from tests.helpers import TINY, Checkpoint, by_path, distance
from tests.weights.helpers import FIXTURES, FORMATS, GOLDEN, GOLDEN_CONFIG, held, params_of, reference, same, write

forward_jit = jax.jit(forward, static_argnames="config")


def test_logits_of_the_golden_model_are_those_of_transformers() -> None:
    expected = np.load(GOLDEN / "expected.npz")
    tokens_BT = jnp.asarray(expected["tokens"], jnp.int32)
    params, config, encoding = gpt2jax.load(GOLDEN / "safetensors")
    assert config == GOLDEN_CONFIG
    assert encoding is None
    logits_BTV = forward_jit(params, tokens_BT, config)
    assert distance(logits_BTV[..., :20], expected["logits"]) < 1e-4
    shifted = params | {"wpe": jnp.roll(params["wpe"], 1, axis=0)}
    assert distance(forward_jit(shifted, tokens_BT, config)[..., :20], expected["logits"]) > 0.1


@pytest.mark.parametrize("name", ["sharded", "zip", "legacy", "sharded_bin", "flax", "nanogpt", "tf_sharded"])
def test_every_program_wrote_the_same_model(name: str) -> None:
    assert same(params_of(GOLDEN / name), reference())


def test_a_model_of_another_program_is_not_taken_for_the_same() -> None:
    params = params_of(GOLDEN / "nanogpt")
    kernel = params["h"]["mlp"]["c_fc"]["kernel"]
    assert not same(params | {"wpe": params["wpe"].at[0, 0].add(1e-7)}, reference())
    params["h"]["mlp"]["c_fc"]["kernel"] = kernel.swapaxes(1, 2).reshape(kernel.shape)
    assert not same(params, reference())


@pytest.mark.parametrize(
    ("name", "dtype"), [("tf_float16", jnp.float16), ("tf_bfloat16", jnp.bfloat16), ("bfloat16", jnp.bfloat16)]
)
def test_short_floats_are_read_exactly(name: str, dtype: jnp.dtype) -> None:
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(jnp.float32), reference())
    assert same(params_of(GOLDEN / name), rounded)
    assert not same(rounded, reference())


def test_a_model_without_biases_gets_zeros() -> None:
    whole, bare = by_path(reference()), by_path(params_of(GOLDEN / "nanogpt_no_bias"))
    for path, leaf in bare.items():
        assert np.array_equal(leaf, jnp.zeros_like(leaf) if path.endswith("bias") else whole[path]), path
    assert any("no biases" in note for note in open_weights(GOLDEN / "nanogpt_no_bias").origin.notes)


def test_fixtures_load_to_what_was_read_by_hand(hf_tiny: Checkpoint, openai_tiny: Checkpoint) -> None:
    assert same(params_of(FIXTURES / "hf_tiny"), hf_tiny.params)
    assert same(params_of(FIXTURES / "openai_tf_tiny"), openai_tiny.params)


def test_layers_are_in_the_order_of_their_numbers() -> None:
    """Their names sort as h0, h1, h10, h11, h2."""
    stacked = np.asarray(params_of(FIXTURES / "openai_tf_tiny")["h"]["ln_1"]["scale"])
    tensors, _ = read_bundle(FIXTURES / "openai_tf_tiny" / "model.ckpt")
    by_name = [tensors[name].read() for name in sorted(tensors) if name.endswith("ln_1/g")]
    assert np.array_equal(stacked, [tensors[f"model/h{layer}/ln_1/g"].read() for layer in range(12)])
    assert not np.array_equal(stacked, by_name)


@pytest.mark.parametrize("source", ["hf_tiny", "openai_tf_tiny"])
@pytest.mark.parametrize(("first", "second"), list(itertools.product(FORMATS, FORMATS)))
def test_every_pair_of_forms_goes_round_bit_for_bit(tmp_path: Path, source: str, first: Format, second: Format) -> None:
    start = params_of(FIXTURES / source)
    one = tmp_path / ("one.bin" if first == "llmc" else "one")
    two = tmp_path / ("two.bin" if second == "llmc" else "two")
    convert(open_weights(FIXTURES / source), one, first, progress=False)
    convert(open_weights(one), two, second, progress=False)
    assert same(params_of(two), start)
    # A model that is one file has its card beside it; nothing else is left.
    cards = [f"{path.name}.README.md" for path in (one, two) if path.suffix]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([one.name, two.name, *cards])


@pytest.mark.parametrize("to", ["orbax", "huggingface", "openai", "nanogpt"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats_are_written_to_nearest(tmp_path: Path, to: Format, dtype: str) -> None:
    weights = held(TINY)
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(jnp.float32), weights.params)
    assert same(params_of(write(weights, tmp_path, to, dtype=dtype)), rounded)


def test_llmc_has_bfloat16_and_no_float16(tmp_path: Path) -> None:
    weights = held(TINY)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), weights.params)
    assert same(params_of(write(weights, tmp_path, "llmc", dtype="bfloat16")), rounded)
    with pytest.raises(GPT2JaxError, match=r"float16: llm\.c's format has float32 and bfloat16"):
        write(weights, tmp_path / "other", "llmc", dtype="float16")


def test_llmc_files_are_laid_out_as_its_program_reads_them(tmp_path: Path) -> None:
    """By hand, from the description of the format."""
    config = ModelConfig(n_vocab=50257, n_ctx=8, n_embd=8, n_head=2, n_layer=2)
    weights = held(config, encoding=tokenizer.gpt2())
    path = write(weights, tmp_path, "llmc")
    header = np.fromfile(path, "<i4", 256)
    assert header[:8].tolist() == [20240326, 3, 8, 50257, 2, 2, 8, 50304]
    assert not header[8:].any()
    data = np.fromfile(path, "<f4", offset=1024)
    wte, data = data[: 50304 * 8].reshape(50304, 8), data[50304 * 8 :]
    assert np.array_equal(wte, weights.params["wte"])
    assert not wte[50257:].any()
    params, block = weights.params, weights.params["h"]
    attention, mlp = block["attn"], block["mlp"]
    parts = [
        params["wpe"],
        *(block["ln_1"][name] for name in ("scale", "bias")),
        attention["c_attn"]["kernel"].reshape(2, 8, 24).swapaxes(1, 2),
        attention["c_attn"]["bias"],
        attention["c_proj"]["kernel"].reshape(2, 8, 8).swapaxes(1, 2),
        attention["c_proj"]["bias"],
        *(block["ln_2"][name] for name in ("scale", "bias")),
        mlp["c_fc"]["kernel"].swapaxes(1, 2),
        mlp["c_fc"]["bias"],
        mlp["c_proj"]["kernel"].swapaxes(1, 2),
        mlp["c_proj"]["bias"],
        *(params["ln_f"][name] for name in ("scale", "bias")),
    ]
    assert np.array_equal(data, np.concatenate([np.asarray(part).reshape(-1) for part in parts]))


@pytest.mark.parametrize("to", FORMATS)
def test_exactly_the_vocabulary_leaves(tmp_path: Path, to: Format) -> None:
    """TINY has 257 tokens in 384 rows. What pads is not zero here, as it may be after training."""
    weights = held(TINY)
    weights.params["wte"] = weights.params["wte"].at[257:].set(7.0)
    back = params_of(write(weights, tmp_path, to))
    assert np.array_equal(back["wte"][:257], weights.params["wte"][:257])
    assert not np.asarray(back["wte"][257:]).any()
    if to == "huggingface":
        assert load_file(tmp_path / to / "model.safetensors")["transformer.wte.weight"].shape == (257, 64)


def test_a_padded_vocabulary_of_nanogpt_is_cut(tmp_path: Path) -> None:
    config = ModelConfig(n_vocab=50304, n_ctx=8, n_embd=8, n_head=2, n_layer=2)
    weights = held(config)
    path = write(weights, tmp_path, "nanogpt")
    loaded = gpt2jax.load(path)
    assert loaded.config.n_vocab == 50257
    assert loaded.tokenizer is tokenizer.gpt2()
    assert np.array_equal(loaded.params["wte"][:50257], weights.params["wte"][:50257])
    assert not np.asarray(loaded.params["wte"][50257:]).any()
    assert any("47" in note for note in open_weights(path).origin.notes)


def test_a_bundle_is_byte_for_byte_tensorflows(tmp_path: Path) -> None:
    convert(open_weights(FIXTURES / "openai_tf_tiny"), tmp_path / "out", "openai", progress=False)
    for name in ("checkpoint", "model.ckpt.index", "model.ckpt.data-00000-of-00001"):
        assert (tmp_path / "out" / name).read_bytes() == (FIXTURES / "openai_tf_tiny" / name).read_bytes()
