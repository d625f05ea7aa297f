"""Slots against the offline engine: whatever shares them, a text is what it is alone."""

import dataclasses
import functools
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpt2jax.config import SamplingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.text import TextModel
from gpt2jax.serve import batch as module
from gpt2jax.serve.scheduler import Scheduler
from gpt2jax.serve.texts import ClosedError, QueueFullError
from tests.helpers import place_on
from tests.serve.helpers import Heard, offline, request, scheduler_of, tiny_writer


@pytest.fixture(scope="module")
def writer() -> TextModel:
    return tiny_writer()


def mixed(count: int, longest: int = 126) -> list[tuple[str, SamplingConfig]]:
    """Prompts and settings of every kind."""
    draw = random.Random(0)
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 0.0},
        {"top_k": 5, "temperature": 1.3},
        {"top_p": 0.7},
        {"top_p": 0.7, "top_p_rule": "openai"},
        {"repetition_penalty": 1.3, "presence_penalty": 0.5},
        {"stop": ("e", "xy")},
        {"stop_tokens": (65, 66, 67, 68)},
        {"min_new_tokens": 5, "stop_tokens": tuple(range(60, 70))},
        {"forced_tokens": (72, 105)},
        {"past_context": "slide", "max_new_tokens": 150},
        {"logit_bias": {70: 4.0}, "frequency_penalty": 0.3},
    ]
    found = []
    for number in range(count):
        prompt = "".join(
            draw.choice("abcdefgh \n") for _ in range(draw.choice([1, 3, 15, 16, 17, 40, 63, 64, 65, 100, 126]))
        )
        kind: dict[str, Any] = {"max_new_tokens": draw.choice([1, 4, 20, 60]), "seed": draw.randrange(2**32)} | kinds[
            number % len(kinds)
        ]
        if "forced_tokens" in kind or "min_new_tokens" in kind:
            kind["max_new_tokens"] = 12
        most = longest - 6 if "forced_tokens" in kind else longest
        found.append((prompt[:most], SamplingConfig(**kind)))
    return found


@pytest.mark.parametrize(
    ("slots", "chunk", "n_ctx", "least"), [(1, 16, 128, 1), (1, 16, 128, 2), (4, 16, 128, 1), (3, 48, 100, 1)]
)
def test_texts_are_those_of_the_offline_engine_whatever_shares_the_slots(
    slots: int, chunk: int, n_ctx: int, least: int, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 48, the last piece of a long prompt is read together with some that was read before. A GPU has 2 rows at
    least."""
    monkeypatch.setattr(module, "least_rows", lambda: least)
    writer = tiny_writer(n_ctx=n_ctx)
    asked = mixed(36 if slots == 4 else 12, longest=n_ctx - 2)
    wanted_texts = [offline(writer, prompt, sampling, number % 3) for number, (prompt, sampling) in enumerate(asked)]
    with scheduler_of(writer, slots=slots, chunk=chunk) as scheduler:
        heard = [Heard() for _ in asked]
        compiled.clear()
        for number, (prompt, sampling) in enumerate(asked):
            scheduler.submit(request(writer, prompt, sampling), heard[number], alternatives=number % 3)
            if number % 5 == 4:
                time.sleep(0.02)  # Some come while others are being written.
        for one in heard:
            one.wait()
        assert compiled == []
        assert scheduler._batch.counts[0] == least
        for number, (wanted, found) in enumerate(zip(wanted_texts, heard, strict=True)):
            assert found.text == wanted.text, number
            assert found.pieces[-1].finish == wanted.finish
            assert [token.token for token in found.tokens] == wanted.tokens
            assert np.allclose([token.log_prob for token in found.tokens], wanted.log_probs, atol=1e-4, equal_nan=True)
            drawn = [token.top for token in found.tokens if not np.isnan(token.log_prob)]
            for top, other in zip(drawn, [one for one in wanted.top if one], strict=bool(number % 3)):
                assert [token for token, _ in top] == [token for token, _ in other]
        prompt, sampling = asked[0]  # The comparison sees another seed.
        moved = offline(writer, prompt, dataclasses.replace(sampling, seed=sampling.seed + 1), 0)
        assert moved.tokens != wanted_texts[0].tokens


def test_nothing_is_compiled_after_the_start(writer: TextModel, compiled: list[str]) -> None:
    with scheduler_of(writer, slots=3) as scheduler:
        assert compiled  # It was, at the start.
        compiled.clear()
        heard = [Heard() for _ in range(24)]
        for one, (prompt, sampling) in zip(heard, mixed(24), strict=True):
            scheduler.submit(request(writer, prompt, sampling), one, alternatives=2)
        for one in heard:
            one.wait()
        assert compiled == []


def test_a_cache_is_as_long_as_it_must_be(writer: TextModel) -> None:
    with scheduler_of(writer) as scheduler:
        assert scheduler._batch.lengths == [64, 128]
        seen = set()
        short, long = Heard(), Heard()

        def look(piece: object) -> None:
            seen.add(scheduler._batch.length)
            long(piece)  # type: ignore[arg-type]

        scheduler.submit(request(writer, "ab", SamplingConfig(max_new_tokens=100, ignore_end_of_text=True)), look)
        long.wait()
        assert seen == {64, 128}
        scheduler.submit(request(writer, "ab", SamplingConfig(max_new_tokens=5, ignore_end_of_text=True)), short)
        short.wait()
        assert scheduler._batch.length == 64


def test_there_are_as_many_slots_as_texts_need(writer: TextModel) -> None:
    with scheduler_of(writer, slots=6) as scheduler:
        assert scheduler._batch.counts == [1, 4, 6]
        seen = set[tuple[int, int]]()

        def watch(piece: object) -> None:
            seen.add((scheduler._batch.rows, sum(text is not None for text in scheduler._slots)))
            heard[0](piece)  # type: ignore[arg-type]

        heard = [Heard() for _ in range(6)]
        # The first outlives the others by more turns than it takes until there are fewer slots.
        lengths = [100, 40, 30, 20, 10, 4]
        for number, (one, length) in enumerate(zip(heard, lengths, strict=True)):
            sampling = SamplingConfig(max_new_tokens=length, ignore_end_of_text=True, seed=number)
            scheduler.submit(request(writer, "ab", sampling), watch if number == 0 else one)
        for number, (one, length) in enumerate(zip(heard, lengths, strict=True)):
            sampling = SamplingConfig(max_new_tokens=length, ignore_end_of_text=True, seed=number)
            assert one.wait().text == offline(writer, "ab", sampling).text
        assert {rows for rows, _ in seen} == {1, 4, 6}
        assert all(rows >= writing for rows, writing in seen)


def test_a_gpu_has_two_slots_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [module._counts(*given) for given in ((1, 1), (2, 1), (16, 1), (16, 8))] == [
        [1],
        [1, 2],
        [1, 4, 16],
        [8, 16],
    ]
    monkeypatch.setattr(module, "least_rows", lambda: 2)
    assert [module._counts(*given) for given in ((1, 1), (2, 1), (16, 1), (16, 8))] == [[2], [2], [2, 4, 16], [8, 16]]


def test_slots_are_multiples_of_what_a_mesh_spreads_them_over(writer: TextModel) -> None:
    batch = Scheduler(tiny_writer(place_on(2, 1, 2)), slots=5, queue=1, chunk=16)._batch
    assert batch.counts == [2, 6]


def test_a_long_prompt_does_not_stall_the_others(writer: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one of 8 pieces is read, the other text gains a token after each piece."""
    turns: list[str] = []

    def note(name: str, program: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **given: Any) -> Any:
            turns.append(name)
            return program(*args, **given)

        return noted

    for name in ("read", "decode"):
        monkeypatch.setattr(module.programs, name, note(name, getattr(module.programs, name)))
    with scheduler_of(writer) as scheduler:
        writing, reading = Heard(), Heard()
        started = threading.Event()

        def begin(piece: object) -> None:
            started.set()
            writing(piece)  # type: ignore[arg-type]

        sampling = SamplingConfig(max_new_tokens=100, ignore_end_of_text=True)
        scheduler.submit(request(writer, "a", sampling), begin)
        assert started.wait(60)
        del turns[:]
        scheduler.submit(request(writer, "b" * 120, SamplingConfig(max_new_tokens=2, ignore_end_of_text=True)), reading)
        reading.wait()
        writing.wait()
    first, last = turns.index("read"), len(turns) - 1 - turns[::-1].index("read")
    assert turns[first : last + 1] == ["read", "decode"] * 7 + ["read"]


def test_short_prompts_and_ends_are_read_in_small_pieces(writer: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    read = module.programs.read

    def noted(params: Any, cache: Any, tokens_1C: Any, *args: Any, **given: Any) -> Any:
        sizes.append(tokens_1C.shape[1])
        return read(params, cache, tokens_1C, *args, **given)

    with scheduler_of(writer, chunk=64) as scheduler:
        monkeypatch.setattr(module.programs, "read", noted)
        for prompt, wanted in (("a" * 7, [16]), ("a" * 17, [64]), ("a" * 70, [64, 16]), ("a" * 126, [64, 64])):
            del sizes[:]
            heard, sampling = Heard(), SamplingConfig(max_new_tokens=1, seed=len(prompt))
            scheduler.submit(request(writer, prompt, sampling), heard)
            assert heard.wait().text == offline(writer, prompt, sampling).text
            assert sizes == wanted


def test_who_leaves_frees_the_slot(writer: TextModel) -> None:
    with scheduler_of(writer, slots=1) as scheduler:
        gone, waits, never = Heard(), Heard(), Heard()
        first = threading.Event()

        def begin(piece: object) -> None:
            first.set()
            gone(piece)  # type: ignore[arg-type]

        long = SamplingConfig(max_new_tokens=100_000, past_context="slide", ignore_end_of_text=True)
        text = scheduler.submit(request(writer, "a", long), begin)
        queued = scheduler.submit(request(writer, "b", long), never)
        scheduler.submit(request(writer, "c", SamplingConfig(max_new_tokens=3, ignore_end_of_text=True)), waits)
        assert first.wait(60)
        assert not waits.ended.is_set()
        scheduler.cancel(queued)
        scheduler.cancel(text)
        assert len(waits.wait().tokens) == 3
        assert not gone.ended.is_set()
        assert not never.pieces


def test_who_leaves_while_waiting_or_being_read_is_forgotten(writer: TextModel) -> None:
    with scheduler_of(writer, slots=1) as scheduler:
        first, last = Heard(), Heard()
        started = threading.Event()

        def begin(piece: object) -> None:
            started.set()
            first(piece)  # type: ignore[arg-type]

        long = SamplingConfig(max_new_tokens=100_000, past_context="slide", ignore_end_of_text=True)
        text = scheduler.submit(request(writer, "a", long), begin)
        assert started.wait(60)
        scheduler.submit(request(writer, "b" * 120, SamplingConfig(max_new_tokens=3, ignore_end_of_text=True)), last)
        for _ in range(50):  # Behind one who waits: the queue must not grow with those who have left.
            scheduler.cancel(scheduler.submit(request(writer, "c", long), Heard()))
        end = time.monotonic() + 60
        while len(scheduler._queue) > 1:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert not last.pieces
        scheduler.cancel(text)
        read = scheduler.submit(request(writer, "d" * 120, long), Heard())
        scheduler.cancel(read)
        wanted = offline(writer, "b" * 120, SamplingConfig(max_new_tokens=3, ignore_end_of_text=True))
        assert last.wait().text == wanted.text


def test_closed_while_it_compiles_it_ends_early(writer: TextModel) -> None:
    scheduler = Scheduler(writer, slots=1, queue=1, chunk=16)
    warmed = list[int]()

    def warm(number: int) -> None:
        warmed.append(number)
        if number == 2:
            scheduler.close()

    scheduler.start(functools.partial(warm, number) for number in range(5))
    assert warmed == [0, 1, 2]
    assert not scheduler.ready


def test_a_full_queue_and_an_end(writer: TextModel) -> None:
    scheduler = Scheduler(writer, slots=1, queue=1, chunk=16)
    heard = [Heard(), Heard()]
    sampling = SamplingConfig(max_new_tokens=4, ignore_end_of_text=True)
    for one in heard:
        scheduler.submit(request(writer, "a", sampling), one)
    with pytest.raises(QueueFullError, match="queue: 2 texts wait, and 1 more would: 1 may"):
        scheduler.submit(request(writer, "a", sampling), Heard())
    with pytest.raises(QueueFullError):  # All or none.
        scheduler.submit_all([request(writer, "a", sampling)] * 2, lambda _: Heard())
    scheduler.start()
    assert scheduler.close(60)
    # What was taken has been written; nothing more is.
    assert [len(one.wait().tokens) for one in heard] == [4, 4]
    with pytest.raises(ClosedError, match="the server is ending"):
        scheduler.submit(request(writer, "a", sampling), Heard())


@pytest.mark.parametrize("where", ["read", "first", "put", "step"])
def test_a_failure_is_told_to_all_who_wait(writer: TextModel, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    scheduler = Scheduler(writer, slots=1, queue=5, chunk=16)
    heard = [Heard(), Heard()]
    for one in heard:
        scheduler.submit(request(writer, "a", SamplingConfig()), one)
    monkeypatch.setattr(scheduler._batch, "warm", lambda: iter(()))
    monkeypatch.setattr(scheduler._batch, where, lambda *_, **__: 1 / 0)
    scheduler.start()
    for one in heard:
        with pytest.raises(ZeroDivisionError):
            one.wait()
    with pytest.raises(ClosedError, match="has failed: division by zero"):
        scheduler.submit(request(writer, "a", SamplingConfig()), Heard())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beams": 2}, "beams: 2: should be 1"),
        ({"stop_tokens": tuple(range(20))}, "stop_tokens: 2[01] of them: should be at most 16"),
        ({"banned_tokens": (257,)}, "sampling.banned_tokens: 257: should be below"),
    ],
)
def test_what_cannot_be_written_is_refused(writer: TextModel, changes: dict[str, object], message: str) -> None:
    scheduler = Scheduler(writer, slots=1, queue=1, chunk=16)
    with pytest.raises(GPT2JaxError, match=message):
        scheduler.submit(request(writer, "a", SamplingConfig(**changes)), Heard())  # type: ignore[arg-type]
    with pytest.raises(GPT2JaxError, match="logprobs: 6: should be 0 to 5"):
        scheduler.submit(request(writer, "a", SamplingConfig()), Heard(), alternatives=6)


def test_the_same_on_a_mesh(writer: TextModel, compiled: list[str]) -> None:
    spread = tiny_writer(place_on(2, 1, 2))
    with scheduler_of(spread, slots=4) as scheduler:
        asked = mixed(8)
        heard = [Heard() for _ in asked]
        compiled.clear()
        for one, (prompt, sampling) in zip(heard, asked, strict=True):
            scheduler.submit(request(writer, prompt, sampling), one)
        for one in heard:
            one.wait()
        assert compiled == []
        for one, (prompt, sampling) in zip(heard, asked, strict=True):
            assert one.wait().text == offline(writer, prompt, sampling).text
