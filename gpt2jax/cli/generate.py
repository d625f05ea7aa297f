"""`gpt2jax generate`."""

import dataclasses
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pydantic
import tyro

from gpt2jax import config as settings
from gpt2jax.cli.parse import parse, start
from gpt2jax.errors import GPT2JaxError, nearest

if TYPE_CHECKING:
    from gpt2jax.generate.text import TextModel

HELP = """Write text with a trained model.

MODEL is a run's folder, whose own sampling settings are then the defaults, a checkpoint, a folder or file that
OpenAI's, Hugging Face's, nanoGPT's or llm.c's programs wrote, or the name of a released model (gpt2, gpt2-medium,
gpt2-large, gpt2-xl), which is downloaded once. The same prompt, seed and sample index give the same text in any batch.

Texts are shown as they come. With --output they go to a file, a JSON line for each prompt, in order; a job that is
stopped goes on where it was. Then PROMPTS may also be files: .jsonl (strings, or objects with a "prompt") or .txt (a
prompt a line). A settings file (.yaml) may say all of this: see configs/generate.yaml.

examples:
  gpt2jax generate --model runs/quickstart "The assignment statement"
  gpt2jax generate --model gpt2 "A list is" "A tuple is" --num-samples 2 --temperature 0.7 --top-k 40
  gpt2jax generate --model gpt2-medium "Q: Why is the sky blue?\\nA:" --stop "\\n" --max-new-tokens 50
  gpt2jax generate --model gpt2 prompts.jsonl --output texts.jsonl --batch-size 32
  gpt2jax generate configs/generate.yaml
  gpt2jax generate --model runs/quickstart --unconditional --num-samples 0
  gpt2jax generate --model runs/quickstart/checkpoints/1000 --interactive"""


@dataclasses.dataclass(frozen=True)
class GenerateArgs:
    sampling: tyro.conf.OmitArgPrefixes[settings.SamplingConfig] = dataclasses.field(
        default_factory=settings.SamplingConfig
    )
    mesh: settings.MeshConfig = dataclasses.field(default_factory=lambda: settings.MeshConfig(data=1))
    prompts: tyro.conf.Positional[tuple[str, ...]] = ()
    """Texts to continue; with --output also files of them."""
    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """A run's folder, a checkpoint, another program's folder or file, or the name of a released model."""
    unconditional: bool = False
    """Write without a prompt; with --num-samples 0 until Ctrl-C."""
    interactive: bool = False
    """Ask for a prompt, continue it, and again until Ctrl-D; /help tells the commands."""
    output: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """A .jsonl file to write instead of showing the texts."""
    batch_size: int = 16
    """Texts computed at once."""
    log_probs: int = 0
    """With --output: also tokens, their log-probabilities, and this many of the most probable ones at each place."""
    allow_special: bool = False
    """Read <|endoftext|> in a prompt as the special token."""


def run(args: list[str]) -> int:
    default = GenerateArgs()
    if args and args[0].endswith((".yaml", ".yml")):
        default = _from_file(args.pop(0))
    endless = "--unconditional" in args and _take_zero_samples(args)
    given = parse(GenerateArgs, args, "generate", HELP, default=default)
    if given.model is None:
        raise GPT2JaxError("generate: needs --model: a run's folder, a checkpoint, or what --help lists beside them")
    if [bool(given.prompts), given.unconditional, given.interactive].count(True) != 1:
        raise GPT2JaxError("generate: needs either prompts, --unconditional or --interactive")
    for name, least in (("batch_size", 1), ("log_probs", 0)):
        if getattr(given, name) < least:
            raise GPT2JaxError(f"{name}: {getattr(given, name)}: should be at least {least}")
    if default.model is None and (Path(given.model) / "config.yaml").exists():
        # Again, over the run's own sampling settings.
        own = settings.load(Path(given.model) / "config.yaml").sampling
        given = parse(GenerateArgs, args, "generate", HELP, default=dataclasses.replace(default, sampling=own))
    start(given.mesh.cpu_devices)
    from gpt2jax.generate.text import TextModel

    one_device = given.mesh == settings.MeshConfig(data=1)
    model = TextModel.load(given.model, None if one_device else given.mesh)
    if given.interactive:
        return _converse(model, given)
    if given.output:
        return _job(model, given)
    if given.unconditional:
        _show_unconditional(model, given, endless)
        return 0
    _show(model, list(given.prompts), given, first=1)
    return 0


def _from_file(path: str) -> GenerateArgs:
    """The options that a settings file gives; ``sampling`` and ``mesh`` are mappings in it."""
    mapping = settings.read_yaml(path)
    names = [field.name for field in dataclasses.fields(GenerateArgs)]
    if not isinstance(mapping, dict):
        raise GPT2JaxError(f"{path}: {mapping!r}: should be a mapping of {', '.join(names)}")
    for key in mapping:
        if key not in names:
            raise GPT2JaxError(f"{path}: {key}: unknown key ({nearest(str(key), names)})")
    prompts = mapping.get("prompts", ())
    mapping["prompts"] = (prompts,) if isinstance(prompts, str) else prompts
    try:
        return pydantic.TypeAdapter(GenerateArgs).validate_python(mapping)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise GPT2JaxError(f"{path}: {key}: {first['input']!r}: {first['msg'].removeprefix('Input ')}") from None
    except GPT2JaxError as error:
        raise GPT2JaxError(f"{path}: {error}") from None


def _take_zero_samples(args: list[str]) -> bool:
    """Whether ``--num-samples 0``, endlessly many, is among ``args``; it is taken out."""
    for at, arg in enumerate(args):
        if arg == "--num-samples=0" or (arg == "--num-samples" and args[at + 1 : at + 2] == ["0"]):
            del args[at : at + (1 if "=" in arg else 2)]
            return True
    return False


def _show(model: "TextModel", prompts: list[str], given: GenerateArgs, first: int) -> None:
    """Show the texts of ``prompts``, as they come where that can be known before the end."""
    from gpt2jax.generate.interactive import one_after_another, under_rules

    sampling, texts = given.sampling, given.sampling.num_samples
    heads = [prompt if sampling.return_full_text and not given.unconditional else "" for prompt in prompts]
    special = given.allow_special or given.unconditional
    if sampling.best_of > 1:
        written = model.write(prompts, sampling, allow_special=special, batch_size=given.batch_size)
        _print(under_rules([head + text for head, some in zip(heads, written, strict=True) for text in some]))
        return
    several = len(prompts) * texts > 1
    step = max(given.batch_size // texts, 1)
    for at in range(0, len(prompts), step):
        some = prompts[at : at + step]
        pieces = model.stream(some, sampling, allow_special=special)
        each = [head for head in heads[at : at + step] for _ in range(texts)]
        _print(one_after_another(pieces, each, first + at * texts, several))


def _show_unconditional(model: "TextModel", given: GenerateArgs, endless: bool) -> None:
    if not endless:
        _show(model, [model.start()], given, first=1)
        return
    for number in itertools.count():
        # A sample is a function of its seed and index; an endless row of them counts its seeds up.
        sampling = dataclasses.replace(given.sampling, seed=given.sampling.seed + number)
        _show(model, [model.start()], dataclasses.replace(given, sampling=sampling), first=number + 1)


def _print(pieces: Iterable[str]) -> None:
    for piece in pieces:
        print(piece, end="", flush=True)


def _converse(model: "TextModel", given: GenerateArgs) -> int:
    from gpt2jax.generate.interactive import Conversation, line_editor
    from gpt2jax.runtime import cache_folder

    conversation = Conversation(model, given.sampling, given.allow_special)
    with line_editor(cache_folder() / "prompts") as ask:
        while True:
            try:
                _print(conversation.answer(ask()))
            except EOFError:
                print()
                return 0
            except KeyboardInterrupt:  # Stops the text, not the conversation.
                print()
            except GPT2JaxError as error:
                print(f"gpt2jax: {error}", file=sys.stderr)


def _job(model: "TextModel", given: GenerateArgs) -> int:
    from gpt2jax.generate.jobs import read_prompts, run_job

    assert given.output is not None
    prompts: list[str] = []
    for prompt in [model.start()] if given.unconditional else given.prompts:
        is_file = prompt.endswith((".jsonl", ".txt"))
        prompts += read_prompts(Path(prompt)) if is_file else [prompt]
    done = run_job(
        model,
        prompts,
        Path(given.output),
        given.sampling,
        batch_size=given.batch_size,
        log_probs=given.log_probs,
        allow_special=given.allow_special or given.unconditional,
    )
    print(f"wrote {given.output}: {len(prompts):,} prompts, {done:,} of them by this run")
    return 0
