"""Documents apart: completions teach, prompts and padding do not."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2jax import parameters
from gpt2jax.config import Config
from gpt2jax.data.documents import DocumentWindows
from gpt2jax.data.pipeline import batches, open_split, validation_windows
from gpt2jax.data.prepare import prepare
from gpt2jax.errors import GPT2JaxError
from gpt2jax.train.step import make_gradient
from tests.helpers import TINY, by_path, distance, place_on

EOT = 256
T = 6
EXAMPLES = [("ab", "c"), ("", "xyz"), ("0123456789", "ab"), ("q", "01234567")]


def corpus(folder: Path, examples: list[tuple[str, str]], **arguments: object) -> Path:
    source = folder / "examples.jsonl"
    source.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in examples))
    given = {"tokenizer": "bytes", "validation_fraction": 0, "progress": False} | arguments
    prepare([str(source)], folder / "shards", **given)  # type: ignore[arg-type]
    return folder / "shards"


def opened(folder: Path) -> DocumentWindows:
    windows, _, bytes_per_token = open_split(folder, "train", T, 257)
    assert isinstance(windows, DocumentWindows)
    assert bytes_per_token is None
    return windows


def test_each_document_has_windows_of_its_own(tmp_path: Path) -> None:
    windows = opened(corpus(tmp_path, EXAMPLES))
    found = [windows[index].tolist() for index in range(len(windows))]
    assert found == [
        [[*b"abc", EOT, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0]],
        [[EOT, *b"xyz", EOT, 0, 0], [0, 1, 1, 1, 1, 0, 0]],
        # The first window of the third document is prompt alone and is left out.
        [[*b"6789ab", EOT], [0, 0, 0, 0, 1, 1, 1]],
        [[*b"q012345"], [0, 1, 1, 1, 1, 1, 1]],
        [[*b"567", EOT, 0, 0, 0], [0, 1, 1, 1, 0, 0, 0]],
    ]
    assert windows.taught == sum(sum(window[1]) for window in found) / (5 * T)
    assert windows.filled == (3 + 4 + 6 + 6 + 3) / (5 * T)


def test_prompts_are_those_of_documents_evenly_spread(tmp_path: Path) -> None:
    windows = opened(corpus(tmp_path, EXAMPLES))
    assert [prompt.tolist() for prompt in windows.prompts(9)] == [[*b"ab"], [EOT], [*b"0123456789"], [*b"q"]]
    assert [prompt.tolist() for prompt in windows.prompts(2)] == [[*b"ab"], [*b"0123456789"]]


def test_every_token_of_a_completion_teaches_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    examples = [("p" * int(rng.integers(20)), "c" * int(rng.integers(1, 20))) for _ in range(50)]
    windows = opened(corpus(tmp_path, examples))
    taught = [window[0][window[1] == 1] for window in (windows[index] for index in range(len(windows)))]
    assert np.concatenate(taught).tolist().count(ord("c")) == sum(len(c) for _, c in examples)
    assert np.concatenate(taught).tolist().count(EOT) == len(examples)


def test_batches_carry_what_teaches_and_are_functions_of_the_step(tmp_path: Path) -> None:
    windows = opened(corpus(tmp_path, EXAMPLES))

    def take(start: int, steps: int) -> np.ndarray:
        rows = batches(windows, seed=1, batch_size=2, start_step=start, shard_index=0, shard_count=1)
        taken = np.stack([next(rows) for _ in range(steps)])
        rows.close()
        return taken

    whole = take(0, 6)
    assert whole.shape == (6, 2, 2, T + 1)
    assert np.array_equal(whole[3:], take(3, 3))
    assert not np.array_equal(whole[:3], whole[3:])
    [(tokens_BT1, weights_BT)] = validation_windows(windows, 8, 0)
    assert np.array_equal(tokens_BT1[:5], [windows[index][0] for index in range(5)])
    assert np.array_equal(weights_BT[:5], [windows[index][1, 1:] for index in range(5)])
    assert not weights_BT[5:].any()


def test_what_does_not_teach_changes_neither_loss_nor_gradient() -> None:
    """Padding comes after all that teaches; only as a target could it have a part in it."""
    place = place_on(2, 1, 1)
    rng = np.random.default_rng(0)
    tokens = rng.integers(257, size=(2, 4, 33)).astype(np.int32)
    taught = np.ones_like(tokens)
    taught[..., 20:] = 0
    taught[..., 0] = 0
    gradient = jax.jit(make_gradient(Config(model=TINY), place))
    params = jax.device_put(parameters.init(jax.random.key(0), TINY), place.params())

    def of(tokens: np.ndarray) -> tuple[float, dict[str, jax.Array]]:
        loss, grads = gradient(params, jnp.int32(0), jnp.asarray(np.stack([tokens, taught], axis=2)))
        return float(loss), by_path(grads)

    loss, grads = of(tokens)
    padded, seen = tokens.copy(), tokens.copy()
    padded[..., 20:] = 7
    seen[..., 19] = 7
    assert of(padded)[0] == loss
    # The rows of the table that padding looks up get a gradient of exactly 0 from it, whichever they are.
    assert distance(of(padded)[1], grads) == 0
    assert of(seen)[0] != loss  # Twin: a target that teaches.
    # It is the mean over what teaches: that of windows cut there.
    short, _ = gradient(params, jnp.int32(0), jnp.asarray(tokens[..., :20]))
    assert loss == pytest.approx(float(short), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "llmc"}, "format: 'llmc': should be 'nanogpt' for documents with a prompt"),
        ({"split": "tail", "validation_fraction": 0.1}, "split: 'tail': should be 'documents'"),
        ({"end_of_text": False}, "end of text: is left out"),
        ({"tokenizer": "characters"}, "end of text: is left out"),
    ],
)
def test_what_prompts_do_not_go_with_is_refused(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(GPT2JaxError, match=message):
        corpus(tmp_path, EXAMPLES, **arguments)
    assert not (tmp_path / "shards").exists()


def test_prompts_in_some_lines_alone_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "mixed.jsonl"
    source.write_text('{"prompt": "a", "completion": "b"}\n{"text": "c"}\n')
    with pytest.raises(GPT2JaxError, match="should have a prompt in every document or in none"):
        prepare([str(source)], tmp_path / "shards", tokenizer="bytes", validation_fraction=0, progress=False)


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("train.mask", b"\0", "1 bytes: should be 32, one a token"),
        ("train.mask", b"\0" * 32, "no token teaches"),
        ("train.mask", b"\2" * 32, "should hold 0 and 1 alone"),
        ("train.ends", b"\0" * 7, "cut short"),
        ("train.ends", b"\0" * 8, "damaged: should rise to 32"),
        ("train.ends", None, "cannot be read"),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, raw: bytes | None, message: str) -> None:
    folder = corpus(tmp_path, EXAMPLES)
    assert len(opened(folder)) == 5
    (folder / name).unlink()
    if raw is not None:
        (folder / name).write_bytes(raw)
    with pytest.raises(GPT2JaxError, match=message):
        opened(folder)
