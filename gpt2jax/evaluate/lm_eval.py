"""lm-evaluation-harness over our models (``pip install 'gpt2jax[lm-eval]'``).

    python -m gpt2jax.evaluate.lm_eval run --model gpt2jax --model_args model=gpt2-medium --tasks lambada_openai

is its own command line, which finds no models of other packages by itself, with ours beside its own. Model arguments:
``model``, any weights (:func:`gpt2jax.weights.sources.open_weights`); ``compute_dtype``; ``batch_tokens``; ``data``,
``fsdp`` and ``tensor``, sizes of the mesh. :func:`register` does the same in a program.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gpt2jax.config import MeshConfig, SamplingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate.likelihood import ComputeDtype, Scorer
from gpt2jax.evaluate.rows import Scored, pair, rolling
from gpt2jax.generate.text import TextModel
from gpt2jax.tokenizer import encode_prompt, end_of_text
from gpt2jax.weights.sources import open_weights


class Answers:
    """What the harness asks of a model, in tokens and texts."""

    def __init__(
        self,
        model: str,
        compute_dtype: ComputeDtype = "float32",
        batch_tokens: int | None = None,
        data: int = 1,
        fsdp: int = 1,
        tensor: int = 1,
    ) -> None:
        """
        Raises:
            GPT2JaxError: there are no such weights, or their vocabulary is not known or has no ``<|endoftext|>``.
        """
        encoding = open_weights(model).origin.encoding
        end = None if encoding is None else end_of_text(encoding)
        if encoding is None or end is None:
            raise GPT2JaxError(f"{model}: the harness needs a vocabulary with <|endoftext|>")
        self.model, self.encoding, self.end = model, encoding, end
        sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
        self.mesh = None if set(sizes.values()) == {1} else MeshConfig(**sizes)
        self.scorer = Scorer.load(model, self.mesh, compute_dtype=compute_dtype, batch_tokens=batch_tokens)

    @functools.cached_property
    def writer(self) -> TextModel:
        """Loaded when text is asked for."""
        return TextModel.load(self.model, self.mesh)

    def encode(self, text: str) -> list[int]:
        return encode_prompt(self.encoding, text)

    def pairs(self, requests: Iterable[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether greedy decoding would write it."""
        window = self.scorer.config.n_ctx
        rows = (pair(context, continuation, window) for context, continuation in requests)
        return [(_total([one]), bool(one.argmax.all())) for one in self.scorer.score_all(rows)]

    def whole(self, texts: Sequence[str]) -> list[float]:
        """Log-probability of each text, in rolling windows; of an empty one 0."""
        window = self.scorer.config.n_ctx
        tokens = [self.encode(text) for text in texts]
        rows = [list(rolling(some, window, self.end)) if some else [] for some in tokens]
        scored = self.scorer.score_all(row for some in rows for row in some)
        return [_total([next(scored) for _ in some]) for some in rows]

    def write(self, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        """A text for each context, by the harness's settings of generation."""
        alike: dict[SamplingConfig, list[int]] = {}
        for number, (_, settings) in enumerate(requests):
            alike.setdefault(sampling(settings), []).append(number)
        found: dict[int, str] = {}
        for config, numbers in alike.items():
            prompts = [requests[number][0] or self.writer.start() for number in numbers]
            texts = self.writer.write(prompts, config, allow_special=True)
            found |= {number: text for number, [text] in zip(numbers, texts, strict=True)}
        return [found[number] for number in range(len(requests))]


def sampling(settings: dict[str, Any]) -> SamplingConfig:
    """Ours for the harness's ``generation_kwargs``: greedy unless they say ``do_sample``.

    Raises:
        GPT2JaxError: a setting that is not known here.
    """
    rest = dict(settings)
    until = rest.pop("until", None) or []
    stop = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
    new = rest.pop("max_gen_toks", rest.pop("max_new_tokens", 256))
    drawn = bool(rest.pop("do_sample", False))
    knobs = {name: rest.pop(name) for name in ("temperature", "top_k", "top_p", "min_p") if name in rest}
    if rest:
        raise GPT2JaxError(f"generation_kwargs: {next(iter(rest))}: is not known")
    knobs |= {name: float(knobs[name]) for name in ("temperature", "top_p", "min_p") if name in knobs}
    drawing = {"do_sample": True} | knobs if drawn else {"do_sample": False}
    return SamplingConfig(max_new_tokens=new, stop=stop, truncate="left", return_full_text=False, **drawing)


def _total(scored: list[Scored]) -> float:
    return float(sum(one.log_probs.sum(dtype=np.float64) for one in scored))


def register() -> type:
    """The harness's class of our models, registered with it as ``gpt2jax``.

    Raises:
        GPT2JaxError: the harness is not installed.
    """
    try:
        from lm_eval.api.model import TemplateLM
        from lm_eval.api.registry import register_model
    except ImportError:
        raise GPT2JaxError("lm_eval: is not installed; pip install 'gpt2jax[lm-eval]'") from None

    @register_model("gpt2jax")
    class GPT2Jax(TemplateLM):
        def __init__(self, model: str, batch_size: int | str = 1, **rest: Any) -> None:
            super().__init__()
            if batch_size != 1:  # What the harness gives where nobody has asked for another.
                raise GPT2JaxError(f"batch_size: {batch_size}: is said by batch_tokens in --model_args")
            self.answers = Answers(model, **rest)

        @property
        def eot_token_id(self) -> int:
            return self.answers.end

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **rest: Any) -> list[int]:
            return self.answers.encode(string)

        def _loglikelihood_tokens(self, requests: list[Any], **rest: Any) -> list[tuple[float, bool]]:
            return self.answers.pairs((context, continuation) for _, context, continuation in requests)

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            return self.answers.whole([request.args[0] for request in requests])

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return self.answers.write([request.args for request in requests])

    return GPT2Jax


def main() -> None:
    register()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
