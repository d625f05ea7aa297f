"""What clients send, typed: the card's form and OpenAI's. A key that is not there is refused by its name."""

import dataclasses
import secrets
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gpt2jax.config import SamplingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.fields import CountOrZero, Finite, NotEmpty, NotNegative, Probability

TokenId = Annotated[int, Field(ge=0, strict=True)]


def _unicode(text: str) -> str:
    """JSON may have halves of surrogate pairs, which are no characters and cannot be sent back."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start:,} should be one of Unicode's, not half a surrogate pair") from None
    return text


Text = Annotated[str, Field(strict=True), AfterValidator(_unicode)]
Flag = Annotated[bool, Field(strict=True)]
# Seeds of requests that name none: any, so that the same request draws another text.
SEEDS = 2**32

CARD_EXAMPLE: dict[str, Any] = {
    "input_data": ["Once upon a time, far far away,", "Long time ago, there was a man"],
    "params": {
        "top_p": 1.0,
        "temperature": 1.0,
        "max_new_tokens": 50,
        "do_sample": True,
        "return_full_text": True,
    },
}


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _fields_of_sampling() -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(SamplingConfig):
        without = field.default is dataclasses.MISSING
        kind = Flag if field.type is bool else field.type
        fields[field.name] = (kind, Field(default_factory=dict) if without else field.default)
    return fields


SamplingParams: Any = pydantic.create_model(
    "SamplingParams",
    __base__=Body,
    __doc__="Any of gpt2jax's sampling settings, by their names; a seed that is not given is drawn.",
    **_fields_of_sampling(),
)


class ScoreBody(Body):
    """The model card's request."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [CARD_EXAMPLE]})

    input_data: list[Text] = Field(min_length=1)
    """Prompts."""
    params: SamplingParams = Field(default_factory=SamplingParams)

    def sampling(self) -> SamplingConfig:
        """
        Raises:
            GPT2JaxError: values that do not go with each other, or that have no place in a list of one text a prompt.
        """
        given = {name: getattr(self.params, name) for name in self.params.model_fields_set}
        if given.get("num_samples", 1) > 1:
            raise GPT2JaxError(f"params.num_samples: {given['num_samples']}: should be 1; /v1/completions has n")
        return SamplingConfig(**({"seed": secrets.randbelow(SEEDS)} | given))


class StreamOptions(Body):
    include_usage: Flag = False


class CompletionBody(Body):
    """OpenAI's request for completions, with top_k, min_p and repetition_penalty besides."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"prompt": "Once upon a time, far far away,", "max_tokens": 50}]},
    )

    model: Text | None = None
    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[list[TokenId]], Field(min_length=1)]
    )
    max_tokens: CountOrZero | None = 16
    temperature: Annotated[NotNegative, Field(le=1e6)] | None = 1.0
    top_p: Probability | None = 1.0
    n: Annotated[int, Field(ge=1, strict=True)] | None = 1
    best_of: Annotated[int, Field(ge=1, strict=True)] | None = None
    echo: Flag | None = False
    logprobs: CountOrZero | None = None
    stop: NotEmpty | list[NotEmpty] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63, strict=True)] | None = None
    logit_bias: dict[int, Finite] | None = None
    presence_penalty: Finite | None = 0.0
    frequency_penalty: Finite | None = 0.0
    stream: Flag | None = False
    stream_options: StreamOptions | None = None
    suffix: None = None
    """Not for a model that writes from left to right: only null is taken."""
    user: Text | None = None
    """Taken and not looked at."""
    top_k: CountOrZero | None = None
    min_p: Probability | None = None
    repetition_penalty: Annotated[float, Field(ge=1e-6, le=1e6, strict=True)] | None = None

    def prompts(self) -> list[str | list[int]]:
        return _several(self.prompt)

    @property
    def draws(self) -> int:
        """Texts that are drawn for each prompt, of which the n best are returned."""
        return max(self.best_of or 1, self.n or 1)

    def check(self) -> None:
        """
        Raises:
            GPT2JaxError: values that do not go with each other.
        """
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise GPT2JaxError(f"best_of: {self.best_of}: should be at least n ({self.n})")
        if self.stream and (self.best_of or 1) > (self.n or 1):
            raise GPT2JaxError(f"best_of: {self.best_of}: what is best shows at the end: not with stream")
        if self.stream_options and not self.stream:
            raise GPT2JaxError("stream_options: goes with stream alone")
        if self.max_tokens == 0 and not self.echo:
            raise GPT2JaxError("max_tokens: 0: goes with echo alone, for the prompt's own log-probabilities")

    def sampling(self) -> SamplingConfig:
        """
        Raises:
            GPT2JaxError: as of :meth:`check`.
        """
        self.check()
        given: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": self.logit_bias,
        }
        return SamplingConfig(
            **{name: value for name, value in given.items() if value is not None},
            max_new_tokens=max(16 if self.max_tokens is None else self.max_tokens, 1),
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            seed=secrets.randbelow(SEEDS) if self.seed is None else self.seed % SEEDS,
        )


class EmbeddingBody(Body):
    """OpenAI's request for embeddings, with ``pool`` besides."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"input": "Once upon a time"}]})

    model: Text | None = None
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[list[TokenId]], Field(min_length=1)]
    )
    encoding_format: Literal["float", "base64"] = "float"
    pool: Literal["mean", "last"] = "mean"
    user: Text | None = None

    def inputs(self) -> list[str | list[int]]:
        return _several(self.input)


def _several(given: Any) -> list[str | list[int]]:
    """Texts, or tokens of texts, of which OpenAI's form takes one without a list, too."""
    single = isinstance(given, str) or isinstance(given[0], int)
    return [given] if single else list(given)
