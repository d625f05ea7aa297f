"""`gpt2jax generate`."""

import dataclasses
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from gpt2jax import config as settings
from gpt2jax.cli.parse import parse, start
from gpt2jax.errors import GPT2JaxError, nearest
from gpt2jax.yaml_file import read_yaml

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
  gpt2jax generate --model gpt2 "The capital of France is" --beams 4 --max-new-tokens 20
  gpt2jax generate --model gpt2-xl --draft gpt2 "In a shocking finding, scientists discovered"
  gpt2jax generate configs/generate.yaml
  srun gpt2jax generate --model gpt2 prompts.jsonl --output texts.jsonl
  gpt2jax generate --model runs/quickstart --unconditional --num-samples 0
  gpt2jax generate --model runs/quickstart/checkpoints/1000 --interactive"""

SECTIONS = ("sampling", "mesh", "distributed")


@dataclasses.dataclass(frozen=True)
class GenerateArgs:
    sampling: tyro.conf.OmitArgPrefixes[tyro.conf.UseAppendAction[settings.SamplingConfig]] = dataclasses.field(
        default_factory=settings.SamplingConfig
    )
    mesh: settings.MeshConfig = dataclasses.field(default_factory=lambda: settings.MeshConfig(data=1))
    distributed: settings.DistributedConfig = dataclasses.field(default_factory=settings.DistributedConfig)
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
    prompt_log_probs: bool = False
    """With --output: also the tokens of each prompt and their log-probabilities."""
    draft: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """A smaller model of the same vocabulary that drafts tokens for MODEL; the texts stay the same, to rounding."""
    draft_tokens: int | None = None
    """How many it drafts at a time; by default 4."""
    allow_special: bool = False
    """Read <|endoftext|> in a prompt as the special token."""


def run(args: list[str]) -> int:
    from_file = _read_file(args.pop(0)) if args and args[0].endswith((".yaml", ".yml")) else {}
    endless = _take_zero_samples(args, from_file)
    given = parse(GenerateArgs, args, "generate", HELP, default=_defaults({}, from_file))
    if given.model is not None and (Path(given.model) / "config.yaml").exists():
        # Again: a run's own sampling settings, under those of the file, under those of the command line.
        own = settings.load(Path(given.model) / "config.yaml").sampling
        given = parse(GenerateArgs, args, "generate", HELP, default=_defaults(vars(own), from_file))
    _check(given, endless)

    start(given.mesh.cpu_devices, given.distributed)
    import jax

    from gpt2jax.generate.show import show
    from gpt2jax.generate.text import TextModel

    if jax.process_count() > 1 and not given.output:
        raise GPT2JaxError(f"generate: {jax.process_count()} processes: needs --output, a job that they share")
    one_device = given.mesh == settings.MeshConfig(data=1)
    mesh = None if one_device else given.mesh
    drafted = 4 if given.draft_tokens is None else given.draft_tokens
    model = TextModel.load(str(given.model), mesh, given.draft, drafted)
    if given.interactive:
        return _converse(model, given)
    if given.output:
        return _job(model, given)
    prompts, heads = list(given.prompts), None
    if given.unconditional:
        prompts, heads = [model.start()], [""]
    special = given.allow_special or given.unconditional
    for round_ in itertools.count(1):
        # A sample is a function of its seed and index; an endless row of them counts its seeds up.
        sampling = dataclasses.replace(given.sampling, seed=given.sampling.seed + round_ - 1)
        _print(
            show(
                model,
                prompts,
                sampling,
                heads=heads,
                allow_special=special,
                batch_size=given.batch_size,
                first=round_,
                several=True if endless else None,
            )
        )
        if not endless:
            return 0
    return 0


def _read_file(path: str) -> dict[str, Any]:
    """The options that a settings file gives; SECTIONS are mappings in it."""
    mapping = read_yaml(path)
    names = [field.name for field in dataclasses.fields(GenerateArgs)]
    if not isinstance(mapping, dict):
        raise GPT2JaxError(f"{path}: {mapping!r}: should be a mapping of {', '.join(names)}")
    for key in mapping:
        if key not in names:
            raise GPT2JaxError(f"{path}: {key}: unknown key ({nearest(str(key), names)})")
    for key in SECTIONS:
        if not isinstance(mapping.get(key, {}), dict):
            raise GPT2JaxError(f"{path}: {key}: {mapping[key]!r}: should be a mapping of keys to values")
    kinds: dict[str, type] = {"prompts": list} | dict.fromkeys(("model", "output", "draft"), str)
    kinds |= dict.fromkeys(("batch_size", "log_probs", "draft_tokens"), int)
    if isinstance(mapping.get("prompts"), str):
        mapping["prompts"] = [mapping["prompts"]]
    for key, value in mapping.items():
        kind = kinds.get(key, dict if key in SECTIONS else bool)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise GPT2JaxError(f"{path}: {key}: {value!r}: should be a {kind.__name__}")
    try:
        _defaults({}, _without_zero(mapping))
    except GPT2JaxError as error:
        raise GPT2JaxError(f"{path}: {error}") from None
    return mapping


def _without_zero(mapping: dict[str, Any]) -> dict[str, Any]:
    sampling = {key: value for key, value in mapping.get("sampling", {}).items() if (key, value) != ("num_samples", 0)}
    return mapping | {"sampling": sampling}


def _defaults(own: dict[str, Any], from_file: dict[str, Any]) -> GenerateArgs:
    """Options before the command line's: a run's ``own`` sampling settings, and over them a file's."""
    sampling = settings.SamplingConfig(**own | from_file.get("sampling", {}))
    mesh = settings.MeshConfig(**{"data": 1} | from_file.get("mesh", {}))
    distributed = settings.DistributedConfig(**from_file.get("distributed", {}))
    rest = {key: value for key, value in from_file.items() if key not in SECTIONS}
    sections = {"sampling": sampling, "mesh": mesh, "distributed": distributed}
    return GenerateArgs(**rest | sections | {"prompts": tuple(rest.get("prompts", ()))})


def _take_zero_samples(args: list[str], from_file: dict[str, Any]) -> bool:
    """Whether 0 samples, endlessly many, are asked for; the option is taken out, and each round writes one."""
    for at, arg in enumerate(args):
        name, _, value = arg.replace("_", "-").partition("=")
        if name == "--num-samples":
            endless = (value or "".join(args[at + 1 : at + 2])) == "0"
            if endless:
                args[at : at + (1 if value else 2)] = ["--num-samples", "1"]
            return endless
    if from_file.get("sampling", {}).get("num_samples") == 0:
        from_file["sampling"]["num_samples"] = 1
        return True
    return False


def _check(given: GenerateArgs, endless: bool) -> None:
    if given.model is None:
        raise GPT2JaxError("generate: needs --model: a run's folder, a checkpoint, or what --help lists beside them")
    if [bool(given.prompts), given.unconditional, given.interactive].count(True) != 1:
        raise GPT2JaxError("generate: needs either prompts, --unconditional or --interactive")
    if given.output and given.interactive:
        raise GPT2JaxError("--output: goes with prompts or --unconditional, not with --interactive")
    if endless and (given.output or not given.unconditional):
        raise GPT2JaxError("--num-samples 0: goes with --unconditional that is shown, not with prompts or --output")
    for name, least in (("batch_size", 1), ("log_probs", 0)):
        if getattr(given, name) < least:
            raise GPT2JaxError(f"{name}: {getattr(given, name)}: should be at least {least}")
    for name, asked in (("--log-probs", given.log_probs), ("--prompt-log-probs", given.prompt_log_probs)):
        if asked and not given.output:
            raise GPT2JaxError(f"{name}: {asked}: needs --output, whose lines have room for them")
    beams = given.sampling.beams
    if given.draft_tokens is not None and given.draft is None:
        raise GPT2JaxError(f"--draft-tokens: {given.draft_tokens}: needs --draft")
    if beams > 1:
        of_drawing = {"--log-probs": given.log_probs, "--draft": given.draft, "--num-samples 0": endless}
        for name in (name for name, value in of_drawing.items() if value):
            raise GPT2JaxError(f"--beams: {beams}: is a search, in which {name} has no place")
    for prompt in given.prompts if not given.output else ():
        if prompt.endswith((".jsonl", ".txt", ".yaml", ".yml")) and Path(prompt).is_file():
            where = "goes before all options" if prompt.endswith((".yaml", ".yml")) else "needs --output"
            raise GPT2JaxError(f"prompts: {prompt}: is a file, which {where}")


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

    output, sampling = Path(str(given.output)), given.sampling
    prompts: list[str] = []
    for prompt in given.prompts:
        is_file = prompt.endswith((".jsonl", ".txt"))
        prompts += read_prompts(Path(prompt)) if is_file else [prompt]
    if given.unconditional:
        prompts, sampling = [model.start()], dataclasses.replace(sampling, return_full_text=False)
    try:
        done = run_job(
            model,
            prompts,
            output,
            sampling,
            batch_size=given.batch_size,
            log_probs=given.log_probs,
            prompt_log_probs=given.prompt_log_probs,
            allow_special=given.allow_special or given.unconditional,
            wait=True,
        )
    except KeyboardInterrupt:
        print(f"stopped; {output}.partial has what is done, and the same command goes on from there", file=sys.stderr)
        return 130
    import jax

    if jax.process_count() == 1:
        print(f"wrote {output}: {len(prompts):,} prompts, {done:,} of them by this run")
    else:
        print(f"process {jax.process_index()} of {jax.process_count()}: wrote {done:,} of {len(prompts):,} prompts")
    return 0
