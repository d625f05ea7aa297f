"""The conversation at the terminal."""

import jax
import pytest

from gpt2jax import parameters, tokenizer
from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.interactive import Conversation
from gpt2jax.generate.show import one_after_another, show
from gpt2jax.generate.text import Piece, TextModel
from tests.generate.helpers import sampling

CONFIG = ModelConfig(n_vocab=257, n_ctx=64, n_embd=32, n_head=4, n_layer=2)


@pytest.fixture
def conversation() -> Conversation:
    params = parameters.init(jax.random.key(0), CONFIG)
    return Conversation(
        TextModel.from_params(params, CONFIG, tokenizer.byte_level()), sampling(max_new_tokens=6, return_full_text=True)
    )


def said(conversation: Conversation, line: str) -> str:
    return "".join(conversation.answer(line))


def test_a_line_is_continued_with_the_settings_of_the_moment(conversation: Conversation) -> None:
    first = said(conversation, "Hello")
    assert first.startswith("Hello")
    assert first == "Hello" + conversation.model.write(["Hello"], conversation.sampling)[0][0] + "\n"
    assert said(conversation, "/seed 7") == "seed: 7\n"
    assert said(conversation, "Hello") != first
    assert said(conversation, "/set seed 0") == "seed: 0\n"
    assert said(conversation, "Hello") == first
    assert said(conversation, "/set temperature 0") == "temperature: 0.0\n"
    assert said(conversation, '/set stop ["\\n", "x"]') == "stop: ('\\n', 'x')\n"
    assert said(conversation, "/set temperature 1e-3") == "temperature: 0.001\n"
    said(conversation, "/set best_of 2")
    assert said(conversation, "Hello").startswith("Hello")
    said(conversation, "/set best_of 1")
    said(conversation, "/set num_samples 2")
    assert said(conversation, "Hello").count("SAMPLE") == 2
    assert "temperature: 0.001\n" in said(conversation, "/show")
    assert "/set NAME VALUE" in said(conversation, "/help")
    with pytest.raises(EOFError):
        said(conversation, "/quit")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/sett top_k 3", "/sett: unknown (nearest: set)"),
        ("/set temprature 3", "sampling.temprature: unknown (nearest: temperature)"),
        ("/set top_p 1.5", "sampling.top_p: 1.5: should be less than or equal to 1"),
        ("/set top_k [", "sampling.top_k: not valid YAML"),
        ("/set", "/set: needs a setting and its value"),
        ("/set logit_bias {999: 1.0}", "sampling.logit_bias: 999: should be below the vocabulary of 257"),
        ("/seed x", "sampling.seed: 'x': should be a valid integer"),
        ("", "is empty"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(conversation: Conversation, line: str, message: str) -> None:
    before = conversation.sampling
    with pytest.raises(GPT2JaxError) as caught:
        said(conversation, line)
    assert message in str(caught.value)
    assert conversation.sampling == before


def test_texts_that_come_at_once_are_read_one_after_the_other() -> None:
    come = [
        Piece(1, "b1", None),
        Piece(0, "a1", None),
        Piece(1, "b2", "stop"),
        Piece(0, "a2", "length"),
        Piece(2, "c", "stop"),
    ]
    shown: list[str] = []
    for piece in one_after_another(iter(come), ["A", "B", "C"]):
        shown.append(piece)
    rule = "=" * 40
    assert "".join(shown) == "".join(
        f"{rule} SAMPLE {number} {rule}\n{text}\n" for number, text in ((1, "Aa1a2"), (2, "Bb1b2"), (3, "Cc"))
    )
    assert "".join(one_after_another(iter([Piece(0, "x", "stop")]), ["A"])) == "Ax\n"


def test_nothing_is_shown_of_prompts_that_cannot_all_be_continued(conversation: Conversation) -> None:
    shown: list[str] = []
    with pytest.raises(GPT2JaxError, match="prompt 3: '': is empty"):
        shown.extend(show(conversation.model, ["a", "b", ""], conversation.sampling, batch_size=1))
    assert shown == []
