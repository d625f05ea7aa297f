"""How text is drawn."""

import dataclasses
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from gpt2jax.fields import Count, CountOrZero, Finite, NotEmpty, NotNegative, Positive, Probability, settings


@settings("sampling")
class SamplingConfig:
    """How tokens are drawn; the order in which these act stands at the head of gpt2jax/generate/filters.py."""

    max_new_tokens: Count = 256
    """Most tokens to add to each prompt; fewer at <|endoftext|>, at a stop, or at the end of the context."""
    min_new_tokens: CountOrZero = 0
    """Tokens to add before <|endoftext|> and other stop tokens may come; stop strings are not held back."""
    do_sample: bool = True
    """False always takes the most probable token, as temperature 0 does."""
    temperature: Annotated[NotNegative, Field(le=1e6)] = 1.0
    """Divides the logits; 0 always takes the most probable token."""
    top_k: CountOrZero = 0
    """Draw among the k most probable tokens; 0 is off."""
    top_p: Probability = 1.0
    """Draw among the most probable tokens that hold this much probability; 1 is off."""
    top_p_rule: Literal["standard", "openai"] = "standard"
    """standard keeps the token that crosses top_p; openai leaves it out, as OpenAI's released code does."""
    min_p: Probability = 0.0
    """Draw among tokens at least this many times as probable as the most probable one; 0 is off."""
    repetition_penalty: Annotated[Positive, Field(ge=1e-6, le=1e6)] = 1.0
    """Weakens tokens that the prompt or the text has (Keskar et al. 2019): divides positive logits, multiplies
    negative ones; 1 is off, 1.2 a usual value."""
    presence_penalty: Finite = 0.0
    """Taken off the logit of every token that has been drawn; 0 is off."""
    frequency_penalty: Finite = 0.0
    """Taken off the logit of a token for each time it has been drawn; 0 is off."""
    logit_bias: dict[int, Finite] = dataclasses.field(default_factory=dict, hash=False)
    """Added to the logits of these tokens."""
    banned_tokens: tuple[CountOrZero, ...] = ()
    """Tokens that are never drawn."""
    forced_tokens: tuple[CountOrZero, ...] = ()
    """Tokens that every text begins with; they count as new ones."""
    stop: tuple[NotEmpty, ...] = ()
    """Strings that end a text, which does not hold them; they may cross the borders of tokens."""
    stop_tokens: tuple[CountOrZero, ...] = ()
    """Tokens that end a text, which does not hold them, beside <|endoftext|>."""
    ignore_end_of_text: bool = False
    """Never draw <|endoftext|>: write on to max_new_tokens."""
    past_context: Literal["stop", "slide"] = "stop"
    """At the end of the context: stop, or slide: go on with the last half of it as a new prompt."""
    truncate: Literal["none", "left"] = "none"
    """A prompt that fills the context: none refuses it, left drops its beginning."""
    return_full_text: bool = True
    """Whether a text begins with its prompt."""
    num_samples: Count = 1
    """Samples per prompt."""
    best_of: Count = 1
    """Draw this many texts for each sample and return the one that is most probable per token."""
    beams: Count = 1
    """Above 1: search for the most probable texts with this many beams; num_samples are the best of them. As with
    temperature 0, what has to do with drawing is not looked at: temperature, top_k, top_p, min_p, seed."""
    length_penalty: Annotated[Finite, Field(ge=-8.0, le=8.0)] = 1.0
    """Of beam search: log-probabilities are summed and divided by the number of new tokens (forced ones not counted)
    to this power; above 1 favours long texts, 0 sums alone."""
    seed: CountOrZero = 0
    """A sample depends on (seed, sample index, position) alone."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> "SamplingConfig":
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens: {self.min_new_tokens}: should be at most sampling.max_new_tokens"
                f" ({self.max_new_tokens})"
            )
        if len(self.forced_tokens) >= self.max_new_tokens:
            raise ValueError(
                f"forced_tokens: {len(self.forced_tokens)} of them: should be fewer than sampling.max_new_tokens"
                f" ({self.max_new_tokens})"
            )
        if self.beams > 1:
            self._check_beams()
        return self

    def _check_beams(self) -> None:
        allowed: dict[str, Any] = {"best_of": 1, "stop": (), "past_context": "stop"}
        for name, value in allowed.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name}: {getattr(self, name)!r}: goes with drawing, not with beam search"
                    f" (sampling.beams: {self.beams})"
                )
        if self.num_samples > self.beams:
            raise ValueError(f"num_samples: {self.num_samples}: should be at most sampling.beams ({self.beams})")
