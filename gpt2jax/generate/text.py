"""Text in, text out."""

import dataclasses
from pathlib import Path
from typing import Self

import jax
import jax.numpy as jnp
import tiktoken

from gpt2jax.config import MeshConfig, ModelConfig, SamplingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.engine import decoding_params, generate
from gpt2jax.generate.filters import Knobs
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition, make_mesh
from gpt2jax.tokenizer import encode_prompt, end_of_text
from gpt2jax.weights.sources import open_weights
from gpt2jax.weights.weights import load_params


@dataclasses.dataclass(frozen=True)
class TextModel:
    """A model ready to write: parameters for decoding, settings, vocabulary."""

    params: Params
    config: ModelConfig
    encoding: tiktoken.Encoding

    @classmethod
    def from_params(cls, params: Params, config: ModelConfig, encoding: tiktoken.Encoding) -> Self:
        """From trained parameters, on whatever mesh they are."""
        return cls(jax.jit(decoding_params, static_argnames="config")(params, config=config), config, encoding)

    @classmethod
    def load(cls, source: str | Path) -> Self:
        """From any GPT-2 (:func:`gpt2jax.weights.sources.open_weights`), onto one device.

        Raises:
            GPT2JaxError: there is none, or nobody knows which vocabulary its tokens are of.
        """
        weights = open_weights(source)
        encoding = weights.origin.encoding
        if encoding is None:
            raise GPT2JaxError(f"{source}: cannot write text: {weights.origin.vocabulary_note}")
        place = Partition(make_mesh(MeshConfig(), jax.devices()[:1]))
        return cls.from_params(load_params(weights, place), weights.config, encoding)

    def start(self) -> str:
        """What unconditional text starts from: ``<|endoftext|>`` as in OpenAI's program, or, in a vocabulary without
        it, a line break as in nanoGPT."""
        return "\n" if end_of_text(self.encoding) is None else self.encoding.decode([self.encoding.eot_token])

    def write(
        self, prompts: list[str], sampling: SamplingConfig, *, allow_special: bool = False, batch_size: int = 16
    ) -> list[list[str]]:
        """Continuations of each prompt, ``sampling.num_samples`` of them, without the prompt.

        A text ends at ``<|endoftext|>``, after ``sampling.max_new_tokens``, or at the end of the context.

        Args:
            allow_special: whether ``<|endoftext|>`` in a prompt is the special token or ordinary text.
            batch_size: rows computed at once.

        Raises:
            GPT2JaxError: an empty prompt, one that fills the context, or one with a character that the vocabulary
                lacks.
        """
        encoded = [encode_prompt(self.encoding, prompt, allow_special) for prompt in prompts]
        for number, (prompt, tokens) in enumerate(zip(prompts, encoded, strict=True), 1):
            if not tokens:
                raise GPT2JaxError(
                    f"prompt {number}: {prompt!r}: is empty; for text without a prompt use --unconditional"
                )
            if len(tokens) >= self.config.n_ctx:
                raise GPT2JaxError(
                    f"prompt {number}: {len(tokens)} tokens: should be below the model's context, {self.config.n_ctx}"
                )
        rows = [(tokens, index) for tokens in encoded for index in range(sampling.num_samples)]
        texts = []
        for first in range(0, len(rows), batch_size):
            batch = rows[first : first + batch_size]
            new = generate(
                self.params,
                [tokens for tokens, _ in batch],
                self.config,
                knobs=make_knobs(sampling, len(batch)),
                max_new_tokens=sampling.max_new_tokens,
                seed=sampling.seed,
                sample_index=[index for _, index in batch],
                stop_token=end_of_text(self.encoding),
            )
            texts += [self.encoding.decode(tokens) for tokens in new]
        return [texts[first : first + sampling.num_samples] for first in range(0, len(texts), sampling.num_samples)]


def make_knobs(sampling: SamplingConfig, rows: int) -> Knobs:
    """The same settings for every row of a batch."""
    return Knobs(
        jnp.full(rows, sampling.temperature, jnp.float32),
        jnp.full(rows, sampling.top_k, jnp.int32),
        jnp.full(rows, sampling.top_p, jnp.float32),
        jnp.asarray(sampling.top_p_rule == "openai"),
    )
