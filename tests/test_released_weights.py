"""What is publicly known of the released 124M model, for whoever has its weights.

    GPT2JAX_WEIGHTS=~/.cache/gpt2jax/weights/openai/gpt2 make test

The variable names any form of the model: a folder of OpenAI's or Hugging Face's, a file of llm.c's, a checkpoint.
"""

import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gpt2jax
from gpt2jax import tokenizer
from gpt2jax.config import EvaluationConfig, SamplingConfig
from gpt2jax.evaluate.session import evaluate
from gpt2jax.generate.text import TextModel
from gpt2jax.model import final_states, forward
from gpt2jax.parameters import Params
from gpt2jax.train.objective import loss_sum
from gpt2jax.weights.sources import Loaded
from tests.helpers import shared_data

SOURCE = os.environ.get("GPT2JAX_WEIGHTS", "")

pytestmark = pytest.mark.skipif(
    not SOURCE, reason="needs the released 124M weights: GPT2JAX_WEIGHTS should name them (gpt2jax download gpt2)"
)


@functools.cache
def released() -> Loaded:
    return gpt2jax.load(SOURCE)


@functools.cache
def writer() -> TextModel:
    return TextModel.load(SOURCE)


def greedy(prompt: str, tokens: int) -> str:
    return writer().write([prompt], SamplingConfig(max_new_tokens=tokens, do_sample=False))[0][0]


def test_greedy_tokens_are_those_of_transformers_own_test() -> None:
    """transformers, tests/models/gpt2/test_modeling_gpt2.py."""
    wanted = [464, 3290, 373, 1043, 287, 257, 2214, 1474, 262, 16246]
    wanted += [286, 2688, 290, 2688, 27262, 13, 198, 198, 464, 3290]
    text = tokenizer.gpt2().decode(wanted[:2])
    assert tokenizer.gpt2().encode_ordinary(text + greedy(text, 18)) == wanted


@pytest.mark.parametrize(
    ("prompt", "tokens", "wanted"),
    [
        # picoGPT, README.
        (
            "Alan Turing theorized that computers would one day become",
            40,
            " the most powerful machines on the planet.\n\nThe computer is a machine that can perform complex"
            " calculations, and it can perform these calculations in a way that is very similar to the human brain.\n",
        ),
        # lm-evaluation-harness, tests/test_models.py, before commit 4c2508609.
        ("The quick brown fox jumps over the lazy", 10, ", lazy fox and they both fall to the ground"),
    ],
)
def test_greedy_texts_are_those_that_others_got(prompt: str, tokens: int, wanted: str) -> None:
    assert greedy(prompt, tokens).startswith(wanted)


def test_log_probabilities_are_those_of_the_evaluation_harness() -> None:
    """The same file: each token of a sentence, the first one after ``<|endoftext|>``."""
    text = "We study empirical scaling laws for language model performance on the cross-entropy loss."
    wanted = [
        *(-4.9599953, -8.069298, -8.308624, -10.178513, -8.906924, -1.9318912, -7.745445, -7.146077, -5.2072),
        *(-3.5882986, -1.9957212, -8.044922, -0.20841774, -5.1096807, -0.099879116, -8.888423, -4.6180487),
    ]
    tokens = [50256, *tokenizer.gpt2().encode_ordinary(text)]
    params, config, _ = released()
    logits_BTV = forward(params, jnp.asarray([tokens]), config)[..., : config.n_vocab]
    log_probs_TV = jax.nn.log_softmax(logits_BTV[0, :-1])
    found = [float(row[token]) for row, token in zip(log_probs_TV, tokens[1:], strict=True)]
    assert np.abs(np.array(found) - wanted).max() < 1e-3
    assert np.abs(np.array(found[::-1]) - wanted).max() > 1.0


def test_features_are_those_of_keras_hub() -> None:
    """keras-hub, gpt2_backbone_test.py: of "The quick brown fox" in its own numbers, to its own tolerance."""
    params, config, _ = released()
    states_BTD = final_states(params, jnp.asarray([[1169, 2068, 7586, 21831, 13]]), config)
    assert np.abs(np.asarray(states_BTD[0, -1, :5]) - [-0.1116, -0.0375, -0.2624, 0.00891, -0.0061]).max() < 0.01


def test_ten_steps_of_training_have_the_losses_of_llmc(standard_promotion: None) -> None:
    """karpathy/llm.c, test_gpt2.c: one batch ten times over, AdamW with decay on every tensor."""
    sections = shared_data("tinyshakespeare.txt").read_text(encoding="utf-8").split("\n\n")
    tokens: list[int] = []
    for section in sections[:20]:
        tokens += [50256, *tokenizer.gpt2().encode_ordinary(section + "\n\n")]
    assert tokens[:10] == [50256, 5962, 22307, 25, 198, 8421, 356, 5120, 597, 2252]
    batch = jnp.asarray(tokens[:257], jnp.int32)
    window_BT1 = jnp.stack([batch[64 * row : 64 * row + 65] for row in range(4)])
    params, config, _ = released()
    optimizer = optax.adamw(1e-4, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01)

    @jax.jit
    def step(params: Params, state: optax.OptState) -> tuple[Params, optax.OptState, jax.Array]:
        def mean(params: Params) -> jax.Array:
            total, count = loss_sum(params, window_BT1, config, chunk=64)
            return total / count

        loss, grads = jax.value_and_grad(mean)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for _ in range(10):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    wanted = [5.270007, 4.059707, 3.375123, 2.800783, 2.315382, 1.849029, 1.394656, 0.999147, 0.624080, 0.376511]
    assert np.abs(np.array(losses) - wanted).max() < 1e-2  # llm.c's own tolerance.
    assert abs(losses[0] - wanted[0]) < 1e-4


def test_lambada_is_that_of_the_evaluation_harness(tmp_path: Path) -> None:
    """lm-evaluation-harness, lambada_openai: perplexity 40.0554, accuracy 0.3256 +- 0.0065."""
    data = shared_data("lambada_test.jsonl").parent
    config = EvaluationConfig(tasks=("lambada",), data=str(data), output=str(tmp_path), variants="all")
    found = evaluate(SOURCE, config, say=lambda line: None)
    assert found is not None
    values = {figure.variant: figure.value for figure in found.figures}
    assert values["as-is, perplexity"] == pytest.approx(40.0554, rel=1e-3)
    assert values["as-is, whole word"] == pytest.approx(32.56, abs=0.05)
