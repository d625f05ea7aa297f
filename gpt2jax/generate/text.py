"""Text in, text out."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import jax
import tiktoken

from gpt2jax.config import MeshConfig, ModelConfig, SamplingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.batch import Batch, will_go_on
from gpt2jax.generate.beam import beam_search
from gpt2jax.generate.engine import decoding_dtype, decoding_params, turns_kernels
from gpt2jax.generate.request import Finish, Request, Row, check_alternatives, check_sampling
from gpt2jax.generate.score import Score, score
from gpt2jax.generate.shapes import by_length
from gpt2jax.generate.speculate import Draft
from gpt2jax.generate.stream import TextStream
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition, make_mesh
from gpt2jax.tokenizer import encode_prompt, end_of_text, to_spec
from gpt2jax.weights.sources import open_weights
from gpt2jax.weights.weights import Weights, load_params

# Tokens (with a draft, rounds of them) between two looks for a stop string: each look waits for the device.
STOP_STRIDE = 16


@dataclasses.dataclass(frozen=True)
class Sample:
    """A text that was written."""

    text: str
    """Without its prompt and without the string that stopped it."""
    tokens: list[int]
    """That were drawn, to the one that completed a stop string."""
    log_probs: list[float]
    """Of each token in nats, under the model alone: before penalties, temperature and cuts. NaN where it was forced."""
    top: list[list[tuple[int, float]]]
    """The most probable tokens at each place with their log-probabilities, where they were asked for."""
    stop_log_prob: float | None
    """Of the token that stopped it, where one has."""
    finish: Finish
    """``stop``: a stop token or string; ``length``: max_new_tokens; ``context``: no room."""

    @classmethod
    def of(cls, row: Row, text: str) -> Self:
        return cls(text, row.tokens, row.log_probs, row.top, row.stop_log_prob, row.finish or "stop")

    @property
    def mean_log_prob(self) -> float:
        """Nats per drawn token, the one that stopped it included."""
        drawn = [value for value in self.log_probs if not math.isnan(value)]
        drawn += [] if self.stop_log_prob is None else [self.stop_log_prob]
        return sum(drawn) / len(drawn) if drawn else -math.inf


class Piece(NamedTuple):
    """What a text gains."""

    number: int
    """Of the text."""
    text: str
    finish: Finish | None
    """Set on the last piece, which may be empty."""


@dataclasses.dataclass(frozen=True)
class TextModel:
    """A model ready to write: parameters for decoding, settings, vocabulary."""

    params: Params
    config: ModelConfig
    encoding: tiktoken.Encoding
    place: Partition | None = None
    """The mesh that ``params`` are on, when it has more than one device."""
    draft: Draft | None = None
    """A smaller model that drafts tokens for this one; the texts stay the same, to rounding of the logits."""

    @classmethod
    def from_params(
        cls, params: Params, config: ModelConfig, encoding: tiktoken.Encoding, place: Partition | None = None
    ) -> Self:
        """From trained parameters, where they lie.

        Args:
            place: the mesh that they are on, to compute on all of it; None: they are on one device.
        """
        decode = jax.jit(decoding_params, static_argnames=("config", "place"))
        return cls(decode(params, config=config, place=place), config, encoding, place)

    @classmethod
    def load(
        cls,
        source: str | Path,
        mesh: MeshConfig | None = None,
        draft: str | Path | None = None,
        draft_tokens: int = 4,
    ) -> Self:
        """From any GPT-2 (:func:`gpt2jax.weights.sources.open_weights`), its parameters read straight to their shards.

        Args:
            mesh: the devices to compute on; by default one.
            draft: a smaller model of the same vocabulary that drafts tokens (:mod:`gpt2jax.generate.speculate`).
            draft_tokens: how many at a time.

        Raises:
            GPT2JaxError: there is none, the mesh does not divide it, nobody knows which vocabulary its tokens are of,
                or the draft does not fit the model.
        """
        weights = open_weights(source)
        encoding = weights.origin.encoding
        if encoding is None:
            raise GPT2JaxError(f"{source}: cannot write text: {weights.origin.vocabulary_note}")
        place = Partition(make_mesh(mesh or MeshConfig(), None if mesh else jax.local_devices()[:1]))
        place.check(weights.config)
        drafting = None if draft is None else _open_draft(draft, weights, encoding, place, draft_tokens)
        params = _read(weights, place)
        return cls(params, weights.config, encoding, place if place.mesh.size > 1 else None, drafting)

    def start(self) -> str:
        """What unconditional text starts from: ``<|endoftext|>`` as in OpenAI's program, or, in a vocabulary without
        it, a line break as in nanoGPT."""
        return "\n" if end_of_text(self.encoding) is None else self.encoding.decode([self.encoding.eot_token])

    def write(
        self, prompts: list[str], sampling: SamplingConfig, *, allow_special: bool = False, batch_size: int = 16
    ) -> list[list[str]]:
        """Continuations of each prompt, ``sampling.num_samples`` of them, without the prompt; see :meth:`sample`."""
        samples = self.sample(prompts, sampling, allow_special=allow_special, batch_size=batch_size)
        return [[one.text for one in some] for some in samples]

    def sample(
        self,
        prompts: list[str],
        sampling: SamplingConfig,
        *,
        allow_special: bool = False,
        batch_size: int = 16,
        alternatives: int = 0,
    ) -> list[list[Sample]]:
        """Samples for each prompt, ``sampling.num_samples`` of them.

        A text ends at ``<|endoftext|>``, a stop token or a stop string, after ``sampling.max_new_tokens``, or at the
        end of the context. Prompts are sorted by length into batches, so that little of the work is padding.

        Args:
            allow_special: whether ``<|endoftext|>`` in a prompt is the special token or ordinary text.
            batch_size: texts computed at once.
            alternatives: most probable tokens to return at each place.

        Raises:
            GPT2JaxError: an empty prompt, one that fills the context, or one with a character that the vocabulary
                lacks; ``alternatives`` of a beam search.
        """
        _check_batch_size(batch_size)
        check_alternatives(alternatives, self.config, sampling)
        if sampling.beams > 1:
            return self._search(self.requests(prompts, sampling, allow_special), sampling, batch_size)
        requests = self.requests(prompts, sampling, allow_special)
        done: dict[int, Sample] = {}
        for numbers in by_length([request.prompt for request in requests], batch_size):
            batch = self._batch([requests[number] for number in numbers], alternatives)
            streams = [TextStream(self.encoding, sampling.stop) for _ in numbers]
            for _ in self._pieces(batch, streams, STOP_STRIDE if sampling.stop else self.config.n_ctx):
                pass
            for number, row, stream in zip(numbers, batch.rows, streams, strict=True):
                done[number] = Sample.of(row, stream.text)
        ranked = [done[number] for number in range(len(requests))]
        best = [
            max(ranked[first : first + sampling.best_of], key=lambda one: one.mean_log_prob)
            for first in range(0, len(ranked), sampling.best_of)
        ]
        count = sampling.num_samples
        return [best[first : first + count] for first in range(0, len(best), count)]

    def _search(self, requests: list[Request], sampling: SamplingConfig, batch_size: int) -> list[list[Sample]]:
        if self.draft is not None:
            raise GPT2JaxError(f"sampling.beams: {sampling.beams}: beam search has no use for a draft")
        done: dict[int, list[Sample]] = {}
        at_once = max(batch_size // sampling.beams, 1)
        for numbers in by_length([request.prompt for request in requests], at_once):
            some = [requests[number] for number in numbers]
            found = beam_search(
                self.params, some, self.config, end_of_text=end_of_text(self.encoding), place=self.place
            )
            for number, rows in zip(numbers, found, strict=True):
                best = rows[: sampling.num_samples]
                if len(best) < sampling.num_samples:
                    raise GPT2JaxError(
                        f"sampling.num_samples: {sampling.num_samples}: beam search found {len(best)} texts: too few"
                        " tokens are allowed, or the model's numbers are NaN"
                    )
                done[number] = [Sample.of(row, self.encoding.decode(row.tokens)) for row in best]
        return [done[number] for number in range(len(requests))]

    def score(
        self, texts: list[str], *, allow_special: bool = False, batch_size: int = 16, alternatives: int = 0
    ) -> list[Score]:
        """Log-probabilities of each token of ``texts`` but the first (:func:`gpt2jax.generate.score.score`).

        Raises:
            GPT2JaxError: an empty text, or one longer than the context.
        """
        _check_batch_size(batch_size)
        tokens = [encode_prompt(self.encoding, text, allow_special) for text in texts]
        return score(self.params, tokens, self.config, alternatives=alternatives, batch_size=batch_size)

    def stream(
        self, prompts: list[str], sampling: SamplingConfig, *, allow_special: bool = False, batch_size: int = 16
    ) -> Iterator[Piece]:
        """The same texts as they come, ``batch_size`` of them at once.

        Texts are numbered as :meth:`sample` returns them, the samples of a prompt after each other. Pieces are whole
        characters; what may become a stop string is held back until it has not.

        Raises:
            GPT2JaxError: as :meth:`sample`, or ``sampling.best_of`` or ``beams`` is above 1: what is best shows at the
                end.
        """
        for name in ("best_of", "beams"):
            if getattr(sampling, name) > 1:
                value = getattr(sampling, name)
                raise GPT2JaxError(f"sampling.{name}: {value}: should be 1 for text that is shown as it comes")
        _check_batch_size(batch_size)
        requests = self.requests(prompts, sampling, allow_special)
        for first in range(0, len(requests), batch_size):
            batch = self._batch(requests[first : first + batch_size], 0)
            streams = [TextStream(self.encoding, sampling.stop) for _ in batch.rows]
            for piece in self._pieces(batch, streams, 1):
                yield piece._replace(number=first + piece.number)

    def requests(self, prompts: list[str], sampling: SamplingConfig, allow_special: bool = False) -> list[Request]:
        """What the engine is asked for ``prompts``: every draw of every sample, in order."""
        if isinstance(prompts, str):
            raise GPT2JaxError(f"prompts: {prompts!r}: should be a list of texts")
        check_sampling(sampling, self.config, end_of_text(self.encoding))
        requests = []
        for number, prompt in enumerate(prompts, 1):
            tokens = encode_prompt(self.encoding, prompt, allow_special)
            if not tokens:
                raise GPT2JaxError(
                    f"prompt {number}: {prompt!r}: is empty; for text without a prompt use --unconditional"
                )
            room = self.config.n_ctx - len(sampling.forced_tokens)
            if len(tokens) >= room and sampling.truncate == "left":
                # As much as leaves room for what is asked for, but half of the context at least.
                tokens = tokens[-max(room - sampling.max_new_tokens, room // 2, 1) :]
            if len(tokens) >= room:
                raise GPT2JaxError(
                    f"prompt {number}: {len(tokens)} tokens: should be below the model's context, {self.config.n_ctx};"
                    " --truncate left drops its beginning"
                )
            # The samples of a beam search are the beams of one.
            draws = 1 if sampling.beams > 1 else sampling.num_samples * sampling.best_of
            requests += [Request(tuple(tokens), sampling, index) for index in range(draws)]
        return requests

    def _batch(self, requests: list[Request], alternatives: int) -> Batch:
        return Batch(
            self.params,
            requests,
            self.config,
            end_of_text=end_of_text(self.encoding),
            alternatives=alternatives,
            place=self.place,
            draft=self.draft,
        )

    def _pieces(self, batch: Batch, streams: list[TextStream], stride: int) -> Iterator[Piece]:
        """Run ``batch`` to its end, ``stride`` tokens (with a draft, rounds) at once, and give what its texts gain."""
        taken, growing = [0] * len(streams), list(range(len(streams)))
        while growing:
            for number in list(growing):
                row, stream = batch.rows[number], streams[number]
                text = ""
                while taken[number] < len(row.tokens) and not stream.ended:
                    text += stream.add(row.tokens[taken[number]])
                    taken[number] += 1
                if stream.ended:
                    batch.end(number, taken[number])
                finish = None if will_go_on(row) else row.finish
                if finish is not None:
                    text += stream.finish()
                    growing.remove(number)
                if text or finish:
                    yield Piece(number, text, finish)
            if growing:
                batch.advance(stride)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise GPT2JaxError(f"batch_size: {batch_size}: should be at least 1")


def _read(weights: Weights, place: Partition) -> Params:
    config = weights.config
    return load_params(weights, place, dtype=decoding_dtype(config), stacked=False, turned=turns_kernels(config, place))


def _open_draft(
    source: str | Path, model: Weights, encoding: tiktoken.Encoding, place: Partition, tokens: int
) -> Draft:
    """The draft that ``source`` means, if it fits ``model``: that is found out before anything is read."""
    weights = open_weights(source)
    if weights.origin.encoding is None:
        raise GPT2JaxError(f"draft: {source}: {weights.origin.vocabulary_note}")
    if to_spec(weights.origin.encoding) != to_spec(encoding):
        raise GPT2JaxError(f"draft: {source}: its vocabulary is not that of {model.origin.where}")
    draft = Draft({}, weights.config, tokens)
    draft.check(model.config)
    try:
        place.check(weights.config)
    except GPT2JaxError as error:
        raise GPT2JaxError(f"draft: {source}: {error}") from None
    return dataclasses.replace(draft, params=_read(weights, place))
