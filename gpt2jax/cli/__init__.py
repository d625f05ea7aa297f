"""The command line: a module for each verb, all of them thin, imported when the verb is asked for. jax is imported only
by the verbs that compute."""

import gc
import importlib
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, cast

from gpt2jax import __version__
from gpt2jax.errors import GPT2JaxError, GPT2JaxWarning, nearest

HELP = """usage: gpt2jax VERB [options]

GPT-2 in JAX: prepare text, train, generate, evaluate, convert weights.

  prepare   text in many forms, or a public corpus by name, to token shards
  data      look at token shards, or write them in another format
  train     train a model as a settings file says; goes on where a run was stopped
  report    compares runs, ended or not: a table and a picture
  generate  write text with a trained model
  serve     answer requests over HTTP: the model card's and OpenAI's forms, streaming
  evaluate  the paper's zero-shot table, and other measurements of a model
  features  what a model makes of texts, as arrays
  convert   weights from any form to any other: OpenAI's, Hugging Face's, nanoGPT's, llm.c's, ours
  download  OpenAI's released models
  plan      what a run needs on chips that are not here: memory, time, mesh
  info      versions, devices and cache folders

examples:
  gpt2jax prepare pydoc --out data/pydoc --tokenizer bytes
  gpt2jax train configs/quickstart.yaml
  gpt2jax generate --model runs/quickstart "The assignment statement"
  gpt2jax generate --model gpt2-medium "Once upon a time, far far away,"

`gpt2jax VERB --help` tells more. Every verb takes --debug: show the traceback of an error.
"""

# Each verb's module and the function in it.
VERBS = {
    "prepare": ("prepare", "run"),
    "data": ("data", "run"),
    "train": ("train", "run"),
    "report": ("report", "run"),
    "generate": ("generate", "run"),
    "evaluate": ("evaluate", "run"),
    "serve": ("serve", "run"),
    "features": ("features", "run"),
    "convert": ("weights", "convert"),
    "download": ("weights", "download"),
    "plan": ("plan", "run"),
    "info": ("info", "run"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 for an error of the user's, 130 after Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    if not args or args[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if args else 2
    if args[0] == "--version":
        print(f"gpt2jax {__version__}")
        return 0
    # Imports and traced programs are objects that stay: going through them again and again took 7 to 9 percent of the
    # time to a first token (benchmarks/log.md).
    gc.set_threshold(300_000, 10, 10)
    try:
        if args[0] not in VERBS:
            raise GPT2JaxError(f"verb: {args[0]!r}: unknown ({nearest(args[0], VERBS)})")
        module, function = VERBS[args[0]]
        verb: Callable[[list[str]], int] = getattr(importlib.import_module(f"gpt2jax.cli.{module}"), function)
        with warnings.catch_warnings():
            warnings.simplefilter("always", GPT2JaxWarning)
            warnings.showwarning = cast(Any, _show_warning)
            return verb(args[1:])
    except GPT2JaxError as error:
        if debug:
            raise
        print(f"gpt2jax: {error}", file=sys.stderr)
        return _end(2)
    except BrokenPipeError:  # Whoever read our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # Of a file that nobody looked at more closely: no permission, say.
        if debug:
            raise
        print(f"gpt2jax: {error.filename or args[0]}: {error.strerror or error}", file=sys.stderr)
        return _end(2)
    except KeyboardInterrupt:
        return 130
    except RuntimeError as error:
        line = _lost(error)
        if line is None or debug:
            raise
        print(f"gpt2jax: {line}", file=sys.stderr)
        return _end(1)


def _lost(error: RuntimeError) -> str | None:
    if not _several():
        return None
    from gpt2jax import distributed

    return distributed.lost(error)


def _several() -> bool:
    """Whether this process has met others, or tried to; asked without starting jax's devices."""
    jax = sys.modules.get("jax")
    return jax is not None and bool(jax.distributed.is_initialized())


def _end(status: int) -> int:
    """The exit status; of several processes, one that fails leaves at once: its exit would wait for the others, who
    wait for it."""
    if _several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"gpt2jax: warning: {message}", file=sys.stderr)
