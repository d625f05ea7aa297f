"""Several corpora in one run: the shares, and that a row is a function of its place."""

from pathlib import Path

import numpy as np
import pytest

from gpt2jax.config import Config, DataConfig, ModelConfig, TrainingConfig
from gpt2jax.data.mixture import open_mixture
from gpt2jax.data.pipeline import batches, validation_windows
from gpt2jax.data.prepare import prepare
from gpt2jax.data.windows import MixedWindows
from gpt2jax.errors import GPT2JaxError
from gpt2jax.train.corpus import open_corpus

T, VOCAB = 8, 257


def folder(tmp_path: Path, letter: str, length: int, fraction: float = 0.2) -> str:
    text = tmp_path / f"{letter}.txt"
    text.write_text("".join(chr(ord(letter) + number % 2) for number in range(length)))
    prepare([str(text)], tmp_path / letter, tokenizer="bytes", split="tail", validation_fraction=fraction)
    return str(tmp_path / letter)


def opened(*mixture: str) -> MixedWindows:
    windows, _, _ = open_mixture(mixture, "train", T, VOCAB)
    assert windows is not None
    return windows


def take(
    windows: MixedWindows, steps: int, start: int = 0, share: tuple[int, int] = (0, 1), seed: int = 0
) -> np.ndarray:
    rows = batches(windows, seed=seed, batch_size=4, start_step=start, shard_index=share[0], shard_count=share[1])
    taken = np.stack([next(rows) for _ in range(steps)])
    rows.close()
    return taken


def letters(rows: np.ndarray) -> list[str]:
    return [chr(row[1]).replace("b", "a").replace("n", "m") for row in rows.reshape(-1, T + 1)]


def test_each_corpus_gives_its_share_however_large_it_is(tmp_path: Path) -> None:
    large, small = folder(tmp_path, "a", 5000), folder(tmp_path, "m", 200)
    for weights, share in (((3, 1), 0.75), ((1, 1), 0.5), ((0.1, 0.9), 0.1)):
        windows = opened(f"{large}={weights[0]}", f"{small}={weights[1]}")
        found = letters(take(windows, 100))
        assert found.count("a") / len(found) == pytest.approx(share, abs=0.01)
        # All along, not on the whole alone.
        assert found[:40].count("a") / 40 == pytest.approx(share, abs=0.05)


def test_a_batch_is_a_function_of_the_step(tmp_path: Path) -> None:
    windows = opened(f"{folder(tmp_path, 'a', 900)}=0.6", f"{folder(tmp_path, 'm', 300)}=0.4")
    whole = take(windows, 60)  # The small one goes through two epochs.
    np.testing.assert_array_equal(take(windows, 20, start=40), whole[40:])
    halves = [take(windows, 60, share=(number, 2)) for number in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), whole)
    assert not np.array_equal(take(windows, 60, seed=1), whole)
    other = opened(
        *[f"{part.shards[0].path.parent}={weight}" for part, weight in zip(windows.parts, (0.4, 0.6), strict=True)]
    )
    assert not np.array_equal(take(other, 60), whole)  # Twin.


def test_an_epoch_of_each_part_has_each_window_once(tmp_path: Path) -> None:
    text = tmp_path / "n.txt"
    text.write_text("".join(f"{number:07d} " for number in range(100)))
    prepare([str(text)], tmp_path / "n", tokenizer="bytes", validation_fraction=0, split="tail")
    windows = opened(f"{tmp_path / 'n'}=1", f"{folder(tmp_path, 'a', 900)}=1")
    rows = take(windows, 100).reshape(-1, T + 1)
    numbers = [bytes(row[:8].astype(np.uint8)).decode() for row in rows if row[0] < 60]
    assert len(numbers) == 200
    assert sorted(numbers[:100]) == sorted(numbers[100:]) == sorted(set(numbers))
    assert numbers[:100] != numbers[100:]


def test_validation_is_of_all_that_hold_something_out(tmp_path: Path) -> None:
    mixture = [
        f"{folder(tmp_path, 'a', 400)}=1",
        f"{folder(tmp_path, 'm', 400)}=1",
        f"{folder(tmp_path, 'x', 99, 0)}=1",
    ]
    windows, encoding, bytes_per_token = open_mixture(mixture, "validation", T, VOCAB)
    assert windows is not None
    assert (len(windows.parts), encoding.name) == (2, "bytes")
    assert bytes_per_token == pytest.approx(80 / 81)
    [(tokens_BT1, weights_BT)] = validation_windows(windows, len(windows), 0)
    assert letters(tokens_BT1) == ["a"] * 10 + ["m"] * 10
    assert weights_BT.all()
    assert open_mixture(mixture[2:], "validation", T, VOCAB)[0] is None


def test_a_run_opens_it(tmp_path: Path) -> None:
    mixture = (f"{folder(tmp_path, 'a', 400)}=1", f"{folder(tmp_path, 'm', 300)}=2.5")
    config = Config(
        model=ModelConfig(n_vocab=VOCAB, n_ctx=T), data=DataConfig(mixture=mixture),
        training=TrainingConfig(run_dir=str(tmp_path / "run")),
    )  # fmt: skip
    corpus = open_corpus(config)
    assert isinstance(corpus.windows, MixedWindows)
    assert (corpus.windows.tokens, corpus.folder) == (321 + 241, ", ".join(mixture))
    assert corpus.held_out is not None


@pytest.mark.parametrize("entry", ["data", "data=", "=1", "data=0", "data=-1", "data=inf", "data=nan", "data=x"])
def test_what_is_no_mixture_is_named(entry: str) -> None:
    with pytest.raises(GPT2JaxError, match=r"data\.mixture: .*: should be PATH=WEIGHT"):
        open_mixture([entry], "train", T, VOCAB)


def test_documents_with_prompts_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    prepare([str(tmp_path / "p.jsonl")], tmp_path / "p", tokenizer="bytes", validation_fraction=0)
    with pytest.raises(GPT2JaxError, match="documents with prompts: should be text alone"):
        opened(f"{tmp_path / 'p'}=1")


def test_vocabularies_that_differ_do_not_mix(tmp_path: Path) -> None:
    """As many characters, but others: the same number is another character in each."""
    folders = []
    for number, letters in enumerate(["abc", "xyz", "abc"]):
        (tmp_path / f"{number}.txt").write_text(letters * 100)
        folders.append(tmp_path / str(number))
        prepare([str(tmp_path / f"{number}.txt")], folders[-1], tokenizer="characters", split="tail")
    with pytest.raises(GPT2JaxError, match=r"1: vocabulary characters of its own: should be characters, as of the fi"):
        open_mixture([f"{folders[0]}=1", f"{folders[1]}=1"], "train", T, 3)
    windows, _, _ = open_mixture([f"{folders[0]}=1", f"{folders[2]}=1"], "train", T, 3)  # Twin.
    assert windows is not None
