"""Features: those of each text alone, whatever is padded beside it."""

import jax.numpy as jnp
import numpy as np
import pytest

from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.features import Pool, features
from gpt2jax.model import hidden_states
from tests.generate.helpers import prompts_of
from tests.helpers import Checkpoint, distance


@pytest.mark.parametrize("layer", [0, 2, -1])
@pytest.mark.parametrize("pool", ["mean", "last", "none"])
def test_features_are_those_of_each_text_alone(hf_tiny: Checkpoint, layer: int, pool: Pool) -> None:
    texts = prompts_of(hf_tiny, 3, 32, 1, 17, 9)
    together = features(hf_tiny.params, texts, hf_tiny.config, layer=layer, pool=pool, batch_size=3)
    for tokens, found in zip(texts, together, strict=True):
        states_TD = np.asarray(hidden_states(hf_tiny.params, jnp.array([tokens]), hf_tiny.config))[layer, 0]
        wanted = {"mean": states_TD.mean(0), "last": states_TD[-1], "none": states_TD}[pool]
        assert found.shape == wanted.shape
        assert distance(found, wanted) < 1e-5
        if len(tokens) > 1:
            assert distance(found, wanted[::-1]) > 1e-3


def test_the_last_layer_is_hugging_faces_last_hidden_state(hf_tiny: Checkpoint) -> None:
    texts = hf_tiny.expected["tokens"].tolist()
    found = np.stack(features(hf_tiny.params, texts, hf_tiny.config, pool="none"))
    assert distance(found, hf_tiny.expected["hidden_last"]) < 1e-4


def test_a_layer_or_text_that_cannot_be_is_refused(hf_tiny: Checkpoint) -> None:
    for layer in (4, -5):
        with pytest.raises(GPT2JaxError, match=f"layer: {layer}: should be -4 to 3"):
            features(hf_tiny.params, [[1]], hf_tiny.config, layer=layer)
    for texts in ([[1], []], [[1], [1] * 33]):
        with pytest.raises(GPT2JaxError, match=f"text 2: {len(texts[1])} tokens: should be 1 to the model's context"):
            features(hf_tiny.params, texts, hf_tiny.config)
