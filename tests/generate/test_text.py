"""Text in, text out."""

import jax
import pytest

from gpt2jax import parameters, tokenizer
from gpt2jax.config import ModelConfig, SamplingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.text import TextModel

CONFIG = ModelConfig(n_vocab=257, n_ctx=64, n_embd=32, n_head=4, n_layer=2)
SAMPLING = SamplingConfig(max_new_tokens=8, num_samples=2)


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
