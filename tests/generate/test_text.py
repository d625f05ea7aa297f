"""Text in, text out."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import pytest

from gpt2jax import parameters, tokenizer
from gpt2jax.config import MeshConfig, ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate import batch
from gpt2jax.generate.batch import Batch
from gpt2jax.generate.request import Request
from gpt2jax.generate.text import TextModel
from gpt2jax.weights.convert import convert
from gpt2jax.weights.weights import HeldWeights, Origin
from tests.generate.helpers import sampling

CONFIG = ModelConfig(n_vocab=257, n_ctx=64, n_embd=32, n_head=4, n_layer=2)
SAMPLING = sampling(max_new_tokens=8, num_samples=2)


@pytest.fixture(scope="module")
def writer() -> TextModel:
    params = parameters.init(jax.random.key(0), CONFIG)
    return TextModel.from_params(params, CONFIG, tokenizer.byte_level())


def test_each_prompt_gets_its_samples_whatever_the_batch_size(writer: TextModel) -> None:
    prompts = ["one", "another one", "x"]
    written = writer.write(prompts, SAMPLING)
    assert [len(texts) for texts in written] == [2, 2, 2]
    assert written == writer.write(prompts, SAMPLING, batch_size=4)
    assert written[1] == writer.write(["another one"], SAMPLING)[0]
    assert written[0][0] != written[0][1]


def test_a_stream_gives_the_same_texts(writer: TextModel) -> None:
    prompts = ["one", "another one"]
    texts, finished = ["", "", "", ""], []
    for piece in writer.stream(prompts, SAMPLING):
        texts[piece.number] += piece.text
        finished += [piece.number] if piece.finish else []
    written = writer.write(prompts, SAMPLING)
    assert texts == [text for some in written for text in some]
    assert sorted(finished) == [0, 1, 2, 3]


def test_stop_strings_end_texts_wherever_tokens_end(writer: TextModel) -> None:
    [[free]] = writer.write(["one"], sampling(max_new_tokens=40))
    stop = free[9:12]
    assert stop not in free[:11]
    settings = sampling(max_new_tokens=40, stop=(stop,))
    [[sample]] = writer.sample(["one"], settings)
    assert (sample.text, sample.finish) == (free[:9], "stop")
    # Its tokens end with the one that completed the stop string, however many had been drawn by then.
    assert writer.encoding.decode(sample.tokens) == free[:12]
    assert len(sample.log_probs) == len(sample.tokens)
    assert "".join(piece.text for piece in writer.stream(["one"], settings)) == free[:9]
    both = writer.write(["one", "two"], settings)
    assert both[0] == [free[:9]]
    assert both[1] == writer.write(["two"], settings)[0]


def test_the_best_of_several_is_the_most_probable_per_token(writer: TextModel) -> None:
    many = writer.sample(["one"], sampling(max_new_tokens=8, num_samples=6))[0]
    best = writer.sample(["one"], sampling(max_new_tokens=8, num_samples=2, best_of=3))[0]
    for at in (0, 1):
        wanted = max(many[3 * at : 3 * at + 3], key=lambda one: sum(one.log_probs) / len(one.log_probs))
        assert best[at] == wanted
    # A text that ends at once counts with the token that ended it.
    stop = many[0].tokens[0]
    ended = sampling(max_new_tokens=8, best_of=6, stop_tokens=(stop,))
    each = writer.sample(["one"], dataclasses.replace(ended, best_of=1, num_samples=6))[0]
    assert each[0].text == ""
    assert each[0].mean_log_prob == each[0].stop_log_prob == pytest.approx(many[0].log_probs[0], abs=1e-5)
    [[chosen]] = writer.sample(["one"], ended)
    assert chosen == max(each, key=lambda one: one.mean_log_prob)
    with pytest.raises(GPT2JaxError, match="best_of: 3: should be 1"):
        next(writer.stream(["one"], sampling(best_of=3)))


def test_alternatives_come_when_asked_for(writer: TextModel) -> None:
    [[sample]] = writer.sample(["one"], sampling(max_new_tokens=5, forced_tokens=(7,)), alternatives=2)
    assert [len(top) for top in sample.top] == [0, 2, 2, 2, 2]
    assert math.isnan(sample.log_probs[0])
    assert sample.tokens[0] == 7
    assert sample.mean_log_prob == pytest.approx(sum(sample.log_probs[1:]) / 4)


def test_a_long_prompt_is_cut_from_the_left_when_allowed(writer: TextModel) -> None:
    prompt = "abc" * 30
    with pytest.raises(GPT2JaxError, match="90 tokens: should be below the model's context, 64; --truncate left"):
        writer.write([prompt], SAMPLING)
    cut = dataclasses.replace(SAMPLING, truncate="left")
    assert writer.write([prompt], cut) == writer.write([prompt[-56:]], SAMPLING)
    # Half of the context at least stays.
    much = dataclasses.replace(cut, max_new_tokens=1000)
    assert writer.write([prompt], much) == writer.write([prompt[-32:]], dataclasses.replace(much, truncate="none"))


def test_forced_tokens_leave_room_or_are_refused_by_name(writer: TextModel) -> None:
    settings = sampling(max_new_tokens=70, forced_tokens=(7,) * 61, truncate="left")
    [[sample]] = writer.sample(["abcdef"], settings)
    assert sample.tokens[:61] == [7] * 61
    with pytest.raises(GPT2JaxError, match=r"sampling\.forced_tokens: 63 of them"):
        writer.write(["a"], sampling(max_new_tokens=70, forced_tokens=(7,) * 63))


def test_what_is_no_list_and_no_batch_is_refused(writer: TextModel) -> None:
    with pytest.raises(GPT2JaxError, match="prompts: 'abc': should be a list"):
        writer.write("abc", SAMPLING)  # type: ignore[arg-type]
    for call in (writer.write, writer.stream):
        with pytest.raises(GPT2JaxError, match="batch_size: 0: should be at least 1"):
            list(call(["a"], SAMPLING, batch_size=0))
    assert writer.write([], SAMPLING) == list(writer.stream([], SAMPLING)) == []


def test_a_batch_is_no_larger_than_was_asked_for(writer: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    batch = TextModel._batch

    def noted(self: TextModel, some: list[Request], alternatives: int) -> Batch:
        sizes.append(len(some))
        return batch(self, some, alternatives)

    monkeypatch.setattr(TextModel, "_batch", noted)
    many = dataclasses.replace(SAMPLING, num_samples=10, max_new_tokens=1)
    assert {piece.number for piece in writer.stream(["a", "b"], many, batch_size=4)} == set(range(20))
    writer.write(["a", "b"], many, batch_size=4)
    assert sizes == [4] * 10


def test_special_tokens_are_read_only_when_allowed(writer: TextModel) -> None:
    prompt = tokenizer.END_OF_TEXT
    as_text = writer.write([prompt], SAMPLING)
    assert as_text != writer.write([prompt], SAMPLING, allow_special=True)
    long = "y" * 52 + prompt  # 65 bytes as text, 53 tokens with the special one.
    with pytest.raises(GPT2JaxError, match="65 tokens"):
        writer.write([long], SAMPLING)
    assert writer.write([long], SAMPLING, allow_special=True)


def test_an_empty_prompt_is_refused_and_text_can_start_without_one(writer: TextModel) -> None:
    with pytest.raises(GPT2JaxError, match="prompt 2: '': is empty"):
        writer.write(["a", ""], SAMPLING)
    assert writer.start() == tokenizer.END_OF_TEXT
    characters = TextModel(writer.params, CONFIG, tokenizer.characters("ab\n"))
    assert characters.start() == "\n"


def test_beams_are_the_samples(writer: TextModel) -> None:
    settings = sampling(beams=3, num_samples=2, max_new_tokens=6)
    prompts = ["one", "another one", "x"]
    found = writer.sample(prompts, settings)
    assert [len(some) for some in found] == [2, 2, 2]
    alone = writer.sample(prompts, settings, batch_size=1)
    assert [[one.tokens for one in some] for some in found] == [[one.tokens for one in some] for some in alone]
    assert found[0][0].mean_log_prob > found[0][1].mean_log_prob
    [[greedy]] = writer.sample(["one"], sampling(temperature=0.0, max_new_tokens=6))
    assert found[0][0].mean_log_prob >= greedy.mean_log_prob - 1e-5
    with pytest.raises(GPT2JaxError, match=r"sampling.beams: 3: should be 1 for text that is shown as it comes"):
        next(writer.stream(prompts, settings))
    with pytest.raises(GPT2JaxError, match="log_probs: 2: goes with drawing"):
        writer.sample(prompts, settings, alternatives=2)


def test_a_draft_is_used_and_one_of_another_vocabulary_refused(
    writer: TextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, encoding in (("bytes", tokenizer.byte_level()), ("characters", tokenizer.characters("ab"))):
        config = CONFIG if name == "bytes" else dataclasses.replace(CONFIG, n_vocab=encoding.n_vocab)
        held = HeldWeights(Origin("random", "memory", config, encoding), parameters.init(jax.random.key(0), config))
        convert(held, tmp_path / name, "orbax")
    drafted = TextModel.load(tmp_path / "bytes", draft=tmp_path / "bytes", draft_tokens=3)
    calls = []
    speculate = batch.speculate

    def noted(*args: Any, **rest: Any) -> Any:
        calls.append(1)
        return speculate(*args, **rest)

    monkeypatch.setattr(batch, "speculate", noted)
    written = writer.write(["one"], SAMPLING)
    assert calls == []
    assert drafted.write(["one"], SAMPLING) == written
    assert calls
    assert drafted.write(["one"], dataclasses.replace(SAMPLING, seed=1)) != written
    with pytest.raises(GPT2JaxError, match=r"sampling.beams: 2: beam search has no use for a draft"):
        drafted.write(["one"], sampling(beams=2))
    with pytest.raises(GPT2JaxError, match=r"draft: .*characters: its vocabulary is not that of .*bytes"):
        TextModel.load(tmp_path / "bytes", draft=tmp_path / "characters")


def test_one_cpu_reads_kernels_turned_and_a_mesh_does_not(tmp_path: Path) -> None:
    params = jax.tree.map(lambda leaf: 8 * leaf, parameters.init(jax.random.key(0), CONFIG))  # Their texts differ.
    convert(
        HeldWeights(Origin("random", "memory", CONFIG, tokenizer.byte_level()), params),
        tmp_path / "model",
        "huggingface",
    )
    wanted = TextModel.from_params(params, CONFIG, tokenizer.byte_level()).write(["one"], SAMPLING)
    for mesh, name in ((None, "turned"), (MeshConfig(data=1, fsdp=2, tensor=4, max_whole=1.0), "kernel")):
        model = TextModel.load(tmp_path / "model", mesh)
        for block in model.params["h"]:
            assert set(block["attn"]["c_attn"]) == set(block["mlp"]["c_proj"]) == {name, "bias"}
        assert model.write(["one"], SAMPLING) == wanted
        assert model.write(["two"], SAMPLING) != wanted


def test_fewer_beams_than_samples_are_an_error(writer: TextModel) -> None:
    settings = sampling(beams=4, num_samples=4, max_new_tokens=1, banned_tokens=tuple(range(2, 257)))
    assert len(writer.sample(["a"], dataclasses.replace(settings, num_samples=2))[0]) == 2
    with pytest.raises(GPT2JaxError, match=r"sampling\.num_samples: 4: beam search found 2 texts"):
        writer.sample(["a"], settings)
    lost = dataclasses.replace(writer, params=jax.tree.map(lambda leaf: leaf * math.nan, writer.params))
    with pytest.raises(GPT2JaxError, match="found 0 texts: too few tokens are allowed, or the model's numbers are NaN"):
        lost.sample(["a"], sampling(beams=2))
