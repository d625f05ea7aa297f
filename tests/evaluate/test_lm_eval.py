"""What the harness is answered, without the harness."""

from pathlib import Path

import jax
import numpy as np
import pytest

from gpt2jax import parameters, tokenizer
from gpt2jax.config import SamplingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate.lm_eval import Answers, sampling
from gpt2jax.parameters import Params
from gpt2jax.weights.convert import convert
from gpt2jax.weights.weights import HeldWeights, Origin
from tests.evaluate import naive
from tests.helpers import TINY


@pytest.fixture(scope="module")
def params() -> Params:
    made = jax.jit(parameters.init, static_argnames="config")(jax.random.key(0), config=TINY)
    return made | {"wte": made["wte"] * 5.0}  # Else every token is as probable as another.


@pytest.fixture(scope="module")
def answers(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folder: Path = tmp_path_factory.mktemp("harness") / "model"
    convert(HeldWeights(Origin("random", "random", TINY, tokenizer.byte_level()), params), folder, "orbax")
    return Answers(str(folder), batch_tokens=64)


def test_pairs_are_the_naive_sums(answers: Answers, params: Params) -> None:
    text = list(b"a context that is longer than fits")
    best = int(naive.logits_after(params, TINY, text[-32:]).argmax())
    requests = [(text, [5, 6]), (text, [best]), ([answers.end], list(b"Hi"))]
    wanted = [
        naive.log_probs(params, TINY, [*text, 5, 6][-33:], 31).sum(),
        naive.log_probs(params, TINY, [*text, best][-33:], 32).sum(),
        naive.log_probs(params, TINY, [answers.end, *b"Hi"], 1).sum(),
    ]
    found = answers.pairs(requests)
    np.testing.assert_allclose([total for total, _ in found], wanted, rtol=1e-4, atol=1e-5)
    assert not np.allclose([total for total, _ in answers.pairs([(text[1:], [6, 5])])], wanted[:1], rtol=1e-4)
    assert [greedy for _, greedy in found[:2]] == [False, True]


def test_texts_are_summed_in_rolling_windows(answers: Answers, params: Params) -> None:
    text = "forty characters and some: over a window"
    stream = [answers.end, *text.encode()]
    first = naive.log_probs(params, TINY, stream[:33], 1).sum()
    rest = naive.log_probs(params, TINY, stream[-33:], 33 - (len(stream) - 33)).sum()
    np.testing.assert_allclose(answers.whole([text, "", "Hi"])[:2], [first + rest, 0.0], rtol=1e-4)
    without = naive.log_probs(params, TINY, stream[33:], 1).sum()
    assert not np.isclose(answers.whole([text])[0], first + without, rtol=1e-4)


def test_texts_are_written_greedily(answers: Answers, params: Params) -> None:
    tokens = list(b"Once")
    for _ in range(6):
        tokens.append(int(naive.logits_after(params, TINY, tokens).argmax()))
    written = answers.encoding.decode(tokens[4:])
    assert answers.write([("Once", {"max_gen_toks": 6}), ("O", {"until": ["\n"], "max_gen_toks": 3})])[0] == written


def test_settings_of_generation_are_ours() -> None:
    found = sampling({"until": "\n", "do_sample": True, "temperature": 1, "max_gen_toks": 7})
    assert found == SamplingConfig(
        max_new_tokens=7, stop=("\n",), temperature=1.0, truncate="left", return_full_text=False
    )
    assert sampling({"until": ["a", ""], "temperature": 0.7}) == SamplingConfig(
        max_new_tokens=256, stop=("a",), do_sample=False, truncate="left", return_full_text=False
    )
    with pytest.raises(GPT2JaxError, match="generation_kwargs: num_beams: is not known"):
        sampling({"num_beams": 3})
