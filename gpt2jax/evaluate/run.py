"""From tasks and a model to figures: what is there, what it will take, and then one job after the other."""

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax

from gpt2jax import runtime
from gpt2jax.config import SIZES, EvaluationConfig, MeshConfig
from gpt2jax.distributed import is_primary
from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate.figures import Evaluation, Figure
from gpt2jax.evaluate.find import Found, Missing, find
from gpt2jax.evaluate.job import Job, Setting
from gpt2jax.evaluate.journal import Journal
from gpt2jax.evaluate.likelihood import Scorer
from gpt2jax.evaluate.stop_words import stop_tokens
from gpt2jax.evaluate.tasks import Task, select
from gpt2jax.presets import PRESETS
from gpt2jax.progress import counter
from gpt2jax.tokenizer import end_of_text
from gpt2jax.weights.sources import open_weights

Say = Callable[[str], None]

# Tokens that are read to find out how fast the model is.
TRIAL_TOKENS = 65_536


@dataclasses.dataclass(frozen=True)
class Plan:
    """A model, and what there is to score."""

    model: str
    scorer: Scorer
    setting: Setting
    jobs: tuple[tuple[Task, Job], ...]
    missing: tuple[str, ...]
