"""What stands in for the released models and their data where the documentation's code is run."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from gpt2jax import presets, tokenizer
from gpt2jax.config import ModelConfig
from gpt2jax.evaluate import catalog
from tests.evaluate.samples import LAMBADA
from tests.weights.helpers import held, write

SIZES: dict[str, Any] = {"n_embd": 32, "n_head": 2, "n_layer": 1}


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a GPT-2 of random weights: its context and its vocabulary, and little else. Its texts end after a
    token or two: drawing among 50,257 tokens takes long with programs that are not optimised, as those of tests are."""
    encoding = tokenizer.gpt2()
    weights = held(ModelConfig(**SIZES), encoding=encoding)
    end = weights.params["wte"][encoding.eot_token]
    weights.params["ln_f"] = {"scale": jnp.full_like(end, 0.1), "bias": 13.0 * end / jnp.sum(end * end)}
    return write(weights, tmp_path_factory.mktemp("small"), "huggingface")


@pytest.fixture
def stand_ins(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder in which every released model's name is a folder of the small model's (a path goes before a
    name), its sizes are the small one's, and LAMBADA has three lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPT2JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GPT2JAX_OFFLINE", "1")
    (tmp_path / "openai-community").mkdir()
    for name in (*presets.PRESETS, *presets.ALIASES):
        for place in (tmp_path, tmp_path / "openai-community"):
            (place / name).symlink_to(small_model)
    for name in presets.PRESETS:
        monkeypatch.setitem(presets.PRESETS, name, SIZES)

    data = tmp_path / "data" / "evaluation"
    data.mkdir(parents=True)
    (data / "lambada_test.jsonl").write_bytes(LAMBADA)
    whole = catalog.dataset("lambada")
    size, sha256, lines = len(LAMBADA), hashlib.sha256(LAMBADA).hexdigest(), LAMBADA.count(b"\n")
    releases = tuple(dataclasses.replace(release, size=size, sha256=sha256) for release in whole.releases)
    contents = catalog.Contents(size=size, sha256=sha256, lines=lines)
    small = dataclasses.replace(whole, contents=contents, releases=releases, units=lines)
    monkeypatch.setitem(catalog.catalog(), "lambada", small)
    return tmp_path
