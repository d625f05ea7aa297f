"""A conversation with a model at the terminal: prompts, and commands that change how it answers."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import yaml

from gpt2jax.config import SamplingConfig
from gpt2jax.errors import GPT2JaxError, nearest
from gpt2jax.generate.text import Piece, TextModel

HELP = """A line is a prompt; the model continues it. Commands:
  /set NAME VALUE   change a setting of sampling: /set temperature 0.7, /set stop ["\\n"]
  /seed N           the same as /set seed N
  /show             all settings
  /help             this list
  /quit             leave, as Ctrl-D does"""


class Conversation:
    """Answers lines; keeps the settings between them."""

    def __init__(self, model: TextModel, sampling: SamplingConfig, allow_special: bool = False) -> None:
        self.model, self.sampling, self.allow_special = model, sampling, allow_special

    def answer(self, line: str) -> Iterator[str]:
        """What there is to show for ``line``, piece by piece.

        Raises:
            GPT2JaxError: an unknown command or setting, a value that is not allowed, or a prompt that cannot be read.
            EOFError: the line ends the conversation.
        """
        if not line.startswith("/"):
            yield from self._write(line)
            return
        command, _, rest = line[1:].partition(" ")
        match command:
            case "set":
                name, _, value = rest.strip().partition(" ")
                self._set(name, value)
                yield f"{name}: {getattr(self.sampling, name)}\n"
            case "seed":
                self._set("seed", rest)
                yield f"seed: {self.sampling.seed}\n"
            case "show":
                yield "".join(f"{name}: {value}\n" for name, value in vars(self.sampling).items())
            case "help":
                yield HELP + "\n"
            case "quit":
                raise EOFError
            case _:
                raise GPT2JaxError(f"/{command}: unknown ({nearest(command, ['set', 'seed', 'show', 'help', 'quit'])})")

    def _set(self, name: str, value: str) -> None:
        names = [field.name for field in dataclasses.fields(SamplingConfig)]
        if name not in names:
            raise GPT2JaxError(f"sampling.{name}: unknown ({nearest(name, names)})")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise GPT2JaxError(f"sampling.{name}: {value!r}: not a value ({' '.join(str(error).split())})") from None
        kind = type(getattr(SamplingConfig(), name))
        if kind is float and isinstance(parsed, int) and not isinstance(parsed, bool):
            parsed = float(parsed)
        if kind is tuple and isinstance(parsed, list):
            parsed = tuple(parsed)
        self.sampling = dataclasses.replace(self.sampling, **{name: parsed})

    def _write(self, prompt: str) -> Iterator[str]:
        head = prompt if self.sampling.return_full_text else ""
        pieces = self.model.stream([prompt], self.sampling, allow_special=self.allow_special)
        yield from one_after_another(pieces, [head] * self.sampling.num_samples)


RULE = "=" * 40


def under_rules(texts: Sequence[str], first: int = 1) -> Iterator[str]:
    """One text as it is, several under numbered rules as OpenAI's program prints them."""
    for number, text in enumerate(texts, first):
        yield f"{RULE} SAMPLE {number} {RULE}\n" if len(texts) > 1 else ""
        yield f"{text}\n"


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
    several, current = len(heads) > 1 if several is None else several, 0

    def head() -> str:
        return (f"{RULE} SAMPLE {first + current} {RULE}\n" if several else "") + heads[current]

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


@contextlib.contextmanager
def line_editor(history: Path) -> Iterator[Callable[[], str]]:
    """A function that asks for a line, with the arrow keys' editing and a history that outlives the program."""
    try:
        import readline
    except ImportError:  # Not every Python has it; lines are plain then.
        yield lambda: input("prompt> ")
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(1000)
    try:
        yield lambda: input("prompt> ")
    finally:
        with contextlib.suppress(OSError):
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)
