"""A conversation with a model at the terminal: prompts, and commands that change how it answers."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from gpt2jax.config import SamplingConfig
from gpt2jax.errors import GPT2JaxError, nearest
from gpt2jax.generate.request import check_sampling
from gpt2jax.generate.show import show
from gpt2jax.generate.text import TextModel
from gpt2jax.tokenizer import end_of_text
from gpt2jax.yaml_file import parse_yaml

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
            yield from show(self.model, [line], self.sampling, allow_special=self.allow_special)
            return
        command, _, rest = line[1:].partition(" ")
        match command:
            case "set":
                name, _, value = rest.strip().partition(" ")
                if not name:
                    raise GPT2JaxError("/set: needs a setting and its value, as in /set temperature 0.7")
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
        changed = dataclasses.replace(self.sampling, **{name: parse_yaml(value, f"sampling.{name}")})
        check_sampling(changed, self.model.config, end_of_text(self.model.encoding))
        self.sampling = changed


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
