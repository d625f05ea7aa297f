"""What is evaluated, and how."""

from typing import Annotated, Literal

from pydantic import Field

from gpt2jax.fields import Count, NotEmpty, settings


@settings("evaluation")
class EvaluationConfig:
    """What is evaluated, and how; a window is never longer than the model's context."""

    tasks: Annotated[tuple[NotEmpty, ...], Field(min_length=1)] = ("paper",)
    """Names of tasks or of groups of them (`gpt2jax evaluate --list`), or folders of token shards."""
    data: NotEmpty = "data/evaluation"
    """The folder with the data sets, in any of their usual releases."""
    variants: Literal["headline", "all"] = "headline"
    """Each task by the protocol that stands beside the paper's figure, or by all that are known."""
    stride: Count = 32
    """Tokens that each further window scores in the streams of text; the paper's is 32, 1024 is without overlap."""
    window: Count = 1024
    """Tokens that a window reads."""
    limit: Count | None = None
    """Only so many items (lines or bytes of a text, tokens of shards) from the beginning: for a try; figures say so."""
    batch_tokens: Count | None = None
    """Tokens computed at once on all devices; by default what suits the hardware."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products; log-probabilities are of float32 logits in any case."""
    output: NotEmpty = "evaluation"
    """The folder for figures (a JSON file for each model), table and picture."""
    allow_changed_data: bool = False
    """Take files that are not the published ones, and say so beside the figure, instead of refusing them."""
