"""One runner: ``python -m benchmarks train|generate|score|load --peer PYTHON``, ``start|growth|memory`` of ours
alone, and ``table`` of their results.

Each prints the machine, versions and the work, then ours and the peers in turn (A B A B, warm-up apart), median and
range of the ratio, and adds itself to ``benchmarks/results/VERB.json``; ``growth`` prints how steeply time grows with
each size. ``table`` makes ``measured.md`` and ``growth.md``, with their pictures, of those files and of nothing else.
``--peer`` is an interpreter that has what ``benchmarks/peers/requirements.txt`` names; without it ours alone is
measured. What was tried on the training step stands in ``benchmarks/log.md``; a GPU's measurements are
``benchmarks/gpu_suite.sh``.
"""

import argparse
import importlib
import os
from pathlib import Path

from benchmarks import results, table

BESIDE_PEERS = ("train", "generate", "score", "load")
VERBS = (*BESIDE_PEERS, "start", "growth", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in VERBS:
        module = importlib.import_module(f"benchmarks.{name}")
        verb = verbs.add_parser(name, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name in BESIDE_PEERS:
            known = os.environ.get("GPT2JAX_PEER_PYTHON")
            verb.add_argument("--peer", default=known, help="default: GPT2JAX_PEER_PYTHON")
        verb.add_argument("--rounds", type=int, default=5)
        verb.add_argument(
            "--cores",
            type=int,
            help="cores for both sides, by default all: with one, the processor's time"
            " tells of the work where other programs keep the clock from doing so",
        )
        verb.add_argument("--results", type=Path, default=results.FOLDER, help="folder that the record is added to")
        module.add_options(verb)
        verb.set_defaults(run=module.run)
    drawn = verbs.add_parser("table", description=table.__doc__)
    drawn.add_argument("--results", type=Path, default=results.FOLDER, help="folder of the records")
    drawn.set_defaults(run=table.run, cores=None)
    given = parser.parse_args()
    if given.cores:  # What is started from here on inherits it.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])
    given.run(given)


if __name__ == "__main__":
    main()
