"""The tasks by name, and groups of them."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gpt2jax.errors import GPT2JaxError, nearest
from gpt2jax.evaluate.job import Job
from gpt2jax.evaluate.tasks import bias, cbt, hellaswag, lambada, occupations, shards, texts


@dataclasses.dataclass(frozen=True)
class Task:
    """What can be asked for."""

    name: str
    title: str
    datasets: tuple[str, ...]
    """Names in the catalog of the files that it needs."""
    jobs: Callable[..., Iterator[Job]]
    """Of the files, in the order of ``datasets``, and a :class:`gpt2jax.evaluate.job.Setting`."""
    group: str


TASKS = (
    Task("lambada", "the last word of a passage", ("lambada",), lambada.lambada, "paper"),
    Task("cbt-cn", "a missing common noun in a children's book", ("cbt-cn",), cbt.cbt, "paper"),
    Task("cbt-ne", "a missing name in a children's book", ("cbt-ne",), cbt.cbt, "paper"),
    Task("wikitext2", "Wikipedia articles, rare words as <unk>", ("wikitext2",), texts.wikitext2, "paper"),
    Task("ptb", "the Wall Street Journal, rare words as <unk>", ("ptb",), texts.ptb, "paper"),
    Task("enwik8", "Wikipedia's XML", ("enwik8",), texts.enwik8, "paper"),
    Task("text8", "Wikipedia's letters", ("text8",), texts.text8, "paper"),
    Task("wikitext103", "Wikipedia articles", ("wikitext103",), texts.wikitext103, "paper"),
    Task("1bw", "news, sentences shuffled", ("1bw",), texts.one_billion_words, "paper"),
    Task("cbt-cn-test", "the test split, which the paper did not use", ("cbt-cn-test",), cbt.cbt, "more"),
    Task("cbt-ne-test", "the test split, which the paper did not use", ("cbt-ne-test",), cbt.cbt, "more"),
    Task("wikitext-raw", "Wikipedia articles, all words", ("wikitext-raw",), texts.wikitext_raw, "more"),
    Task("lambada-plain", "the text as its authors published it", ("lambada-plain",), lambada.lambada_plain, "more"),
    Task("hellaswag", "how a description goes on", ("hellaswag",), hellaswag.hellaswag, "more"),
    Task("crows-pairs", "stereotypes: pairs of sentences", ("crows-pairs",), bias.crows_pairs, "bias"),
    Task("stereoset", "stereotypes: associations of words", ("stereoset",), bias.stereoset, "bias"),
    Task(
        "winobias",
        "gender: pronouns of occupations, in pairs",
        ("winobias-pro1", "winobias-anti1", "winobias-pro2", "winobias-anti2"),
        bias.winobias,
        "bias",
    ),
    Task("winogender", "gender: pronouns of occupations, in schemas", ("winogender",), bias.winogender, "bias"),
    Task("occupations", "gender after occupations, by a template", (), occupations.occupations, "bias"),
)
GROUPS = ("paper", "more", "bias", "all")


def select(names: Sequence[str]) -> list[Task]:
    """The tasks that ``names`` mean: names of tasks, of groups, or folders of token shards; each once, in order.

    Raises:
        GPT2JaxError: a name is none of these.
    """
    known = {task.name: task for task in TASKS}
    chosen: dict[str, Task] = {}
    for name in names:
        if name in GROUPS:
            chosen |= {task.name: task for task in TASKS if name in (task.group, "all")}
        elif name in known:
            chosen[name] = known[name]
        elif Path(name).is_dir():
            chosen[name] = Task(name, "validation loss of token shards", (), shards.of_folder(Path(name)), "shards")
        else:
            raise GPT2JaxError(f"tasks: {name}: no task, and no folder of shards ({nearest(name, [*known, *GROUPS])})")
    return list(chosen.values())
