"""What gpt2jax writes, read by the programs that it is written for; requirements.txt says how to install them."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiktoken

from gpt2jax import parameters, tokenizer
from gpt2jax.config import ModelConfig, SamplingConfig
from gpt2jax.generate.batch import Batch
from gpt2jax.generate.beam import beam_search
from gpt2jax.generate.engine import decoding_params
from gpt2jax.generate.request import Request
from gpt2jax.model import forward
from gpt2jax.parameters import Params
from gpt2jax.presets import preset
from gpt2jax.weights.layout import NANOGPT, OPENAI
from gpt2jax.weights.weights import HeldWeights, Origin
from tests.helpers import distance
from tests.weights.helpers import write

PYTHON = os.environ.get("GPT2JAX_PEER_PYTHON", "")

pytestmark = pytest.mark.skipif(
    not PYTHON, reason="needs GPT2JAX_PEER_PYTHON: an environment with tests/peers/requirements.txt"
)

TEXTS = [
    "Hello!! I'm Andrej Karpathy. It's 2022. w00t :D 🤗",
    "  two  spaces\n\n\tand tabs, \u00e9\u4e2d\u6587 don't they'll",
    "The quick brown fox.",
    "",
]
SMALL = ModelConfig(n_vocab=257, n_ctx=32, n_embd=64, n_head=8, n_layer=12)
LETTERS = tokenizer.characters("\n !abcdé🤗")


def ours(name: str) -> tuple[ModelConfig, tiktoken.Encoding | None, list[str]]:
    match name:
        case "bytes":
            return SMALL, tokenizer.byte_level(), TEXTS
        case "characters":
            sizes = {"n_vocab": LETTERS.n_vocab, "n_ctx": 32, "n_embd": 64, "n_head": 8, "n_layer": 2}
            return ModelConfig(**sizes), LETTERS, ["abba é 🤗!\n", ""]  # type: ignore[arg-type]
        case _:
            return ModelConfig(**preset("gpt2")), tokenizer.gpt2(), TEXTS  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["bytes", "characters", "gpt2"])
def test_peers_read_what_is_written(name: str, tmp_path: Path) -> None:
    config, encoding, texts = ours(name)
    weights = HeldWeights(Origin("held", "memory", config, encoding), _noisy(config))
    for to in ("huggingface", "openai", "nanogpt"):
        write(weights, tmp_path, to)
    tokens_BT = np.random.default_rng(0).integers(config.n_vocab, size=(2, 20))
    np.save(tmp_path / "tokens.npy", tokens_BT)
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    script = Path(__file__).with_name("read_exports.py")
    done = subprocess.run([PYTHON, str(script), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, says = np.load(tmp_path / "peers.npz"), json.loads((tmp_path / "peers.json").read_text())

    logits_BTV = jax.jit(forward, static_argnames="config")(weights.params, jnp.asarray(tokens_BT, jnp.int32), config)
    error = distance(logits_BTV[..., : config.n_vocab], found["huggingface/logits"])
    assert error < 1e-5
    assert distance(logits_BTV[..., : config.n_vocab], found["huggingface/logits"][::-1]) > 0.1

    greedy = SamplingConfig(do_sample=False, max_new_tokens=8)
    requests = [Request(tuple(prompt), greedy) for prompt in tokens_BT.tolist()]
    new = [row.tokens for row in Batch(decoding_params(weights.params, config), requests, config).run()]
    assert np.array_equal(np.concatenate([tokens_BT, new], axis=1), found["huggingface/greedy"])

    stops = tuple(range(3, config.n_vocab, 9))
    beams = {
        penalty: _compare_beams(weights, tokens_BT.tolist(), penalty, stops, found[f"huggingface/beams/{penalty}"])
        for penalty in (-1.0, 0.0, 1.0, 2.0)
    }
    assert beams[-1.0] != beams[2.0]

    assert encoding is not None
    assert says["ids"] == [encoding.encode_ordinary(text) for text in texts]
    assert says["texts"] == texts
    assert says["end_of_text"] == (None if name == "characters" else encoding.eot_token)

    compared = {
        "openai": _compare(found, "openai/", OPENAI, weights),
        "nanogpt": _compare(found, "nanogpt/transformer.", NANOGPT, weights),
    }
    assert says["tied"]
    assert says["mapped"]
    assert says["model_args"]["vocab_size"] == config.n_vocab
    print(f"\n{name}: logits within {error:.1e} of transformers; {compared} tensors bit for bit; {says['versions']}")


def _noisy(config: ModelConfig) -> Params:
    """Fresh parameters, with noise on what would be 0 or 1."""
    rng = np.random.default_rng(0)
    params = jax.jit(parameters.init, static_argnames="config")(jax.random.key(0), config=config)
    noise = parameters.tree(
        lambda row: 0.02 * rng.standard_normal(parameters.shape(row, config), dtype=np.float32) * (row.path != "wte")
    )
    return jax.tree.map(lambda leaf, extra: leaf + extra, params, noise)


def _compare_beams(
    weights: HeldWeights, prompts: list[list[int]], penalty: float, stops: tuple[int, ...], theirs: np.ndarray
) -> list[list[int]]:
    """The texts of four beams of each prompt, best first, with transformers' stop tokens and padding taken off."""
    settings = SamplingConfig(beams=4, max_new_tokens=10, length_penalty=penalty, stop_tokens=stops)
    requests = [Request(tuple(prompt), settings) for prompt in prompts]
    found = beam_search(decoding_params(weights.params, weights.config), requests, weights.config)
    wanted = []
    for text in theirs[:, len(prompts[0]) :].tolist():
        ends = [at for at, token in enumerate(text) if token in stops]
        wanted.append(text[: ends[0]] if ends else text)
    assert [row.tokens for rows in found for row in rows] == wanted
    return wanted


def _compare(found: Any, prefix: str, layout: Any, weights: HeldWeights) -> int:
    """How many tensors a peer read, each of which must have the bits that were written."""
    count = 0
    for name, row, layer in layout.names(weights.config):
        wanted = layout.to_foreign(weights.read(row, layer), row, weights.config)
        assert np.array_equal(found[f"{prefix}{name}"], wanted), name
        count += 1
    assert len([name for name in found.files if name.startswith(prefix)]) == count
    return count
