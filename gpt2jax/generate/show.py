"""Texts as a person reads them at a terminal."""

from collections.abc import Iterator, Sequence

from gpt2jax.config import SamplingConfig
from gpt2jax.generate.text import Piece, TextModel


def show(
    model: TextModel,
    prompts: list[str],
    sampling: SamplingConfig,
    *,
    heads: Sequence[str] | None = None,
    allow_special: bool = False,
    batch_size: int = 16,
    first: int = 1,
    several: bool | None = None,
) -> Iterator[str]:
    """The texts of ``prompts`` one after the other, as they come where that can be known before the end.

    Args:
        heads: what the texts of each prompt begin with; by default the prompt, when ``sampling.return_full_text``.
        first: number of the first text.
        several: whether to set texts under numbered rules; by default when there are several.

    Raises:
        GPT2JaxError: a prompt that cannot be continued; nothing has been shown then.
    """
    model.requests(prompts, sampling, allow_special)
    heads = [prompt if sampling.return_full_text else "" for prompt in prompts] if heads is None else heads
    each = [head for head in heads for _ in range(sampling.num_samples)]
    if sampling.best_of > 1 or sampling.beams > 1:
        written = model.write(prompts, sampling, allow_special=allow_special, batch_size=batch_size)
        texts = [text for some in written for text in some]
        yield from under_rules([head + text for head, text in zip(each, texts, strict=True)], first, several)
        return
    pieces = model.stream(prompts, sampling, allow_special=allow_special, batch_size=batch_size)
    yield from one_after_another(pieces, each, first, several)


def under_rules(texts: Sequence[str], first: int = 1, several: bool | None = None) -> Iterator[str]:
    """One text as it is, several under numbered rules as OpenAI's program prints them."""
    pieces = (Piece(number, text, "stop") for number, text in enumerate(texts))
    yield from one_after_another(pieces, [""] * len(texts), first, several)


def one_after_another(
    pieces: Iterator[Piece], heads: Sequence[str], first: int = 1, several: bool | None = None
) -> Iterator[str]:
    """Texts that come all at once, to be read one after the other: each under a rule when there are several.

    The first text that is not complete is shown as it comes; what later ones gain meanwhile waits for its turn.

    Args:
        heads: what each text begins with.
        first: number of the first text.
        several: whether to set them under rules; by default when there are.
    """
    waiting: dict[int, list[Piece]] = {number: [] for number in range(len(heads))}
    rule, current = "=" * 40, 0
    several = len(heads) > 1 if several is None else several

    def head() -> str:
        return (f"{rule} SAMPLE {first + current} {rule}\n" if several else "") + heads[current]

    yield head()
    for piece in pieces:
        waiting[piece.number].append(piece)
        while current < len(heads) and waiting[current]:
            shown = waiting[current].pop(0)
            yield shown.text
            if shown.finish is not None:
                yield "\n"
                current += 1
                if current < len(heads):
                    yield head()
