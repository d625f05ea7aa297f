"""Results that survive a kill: what was scored is not scored again, and what is damaged is not believed."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from gpt2jax.evaluate.journal import Journal, Results
from gpt2jax.evaluate.likelihood import Scorer
from gpt2jax.evaluate.rows import Row, Scored
from tests.helpers import Checkpoint, run_two_processes


def rows_of(count: int, seed: int = 0) -> list[Row]:
    draw = np.random.default_rng(seed)
    sizes = draw.integers(2, 34, size=count)
    return [Row(draw.integers(300, size=size).astype(np.int32), int(draw.integers(1, size))) for size in sizes]


class Counting:
    """Scores, and says how many rows it was asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.scorer, self.rows = Scorer(checkpoint.params, checkpoint.config, batch_tokens=4 * 32), 0

    def __call__(self, rows: Iterable[Row]) -> Results:
        for row, scored in self.scorer._compute(rows):
            self.rows += 1
            yield row, scored

    def through(self, journal: Journal, rows: list[Row]) -> list[Scored]:
        self.rows = 0
        return [scored for _, scored in journal.through(rows, self, self.scorer.fingerprint)]


def assert_equal(left: list[Scored], right: list[Scored]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one.log_probs, other.log_probs, rtol=1e-5)
        np.testing.assert_array_equal(one.greedy, other.greedy)
        np.testing.assert_array_equal(one.argmax, other.argmax)


def pieces(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_what_was_scored_is_not_scored_again(hf_tiny: Checkpoint, tmp_path: Path) -> None:
    rows, compute, journal = rows_of(40), Counting(hf_tiny), Journal(tmp_path / "pieces", seconds=0.0)
    wanted = list(compute.scorer.score_all(rows))
    running = journal.through(rows, compute, compute.scorer.fingerprint)
    for _ in range(25):
        next(running)
    assert [path.name for path in pieces(journal.folder)][:2] == ["000000000-000000001.npz", "000000001-000000002.npz"]
    del running  # As a kill would: nothing more is written than stands there.
    assert_equal(compute.through(journal, rows), wanted)
    assert 0 < compute.rows <= 15
    assert_equal(compute.through(journal, rows), wanted)
    assert compute.rows == 0
    assert_equal(list(compute.scorer.score_all(rows, journal)), wanted)
    journal.clear()
    assert not journal.folder.exists()
    compute.through(journal, rows)
    assert compute.rows == 40


def test_a_stop_keeps_what_is_done(hf_tiny: Checkpoint, tmp_path: Path) -> None:
    rows, compute, journal = rows_of(40), Counting(hf_tiny), Journal(tmp_path, seconds=1000.0)
    running = journal.through(rows, compute, compute.scorer.fingerprint)
    for _ in range(10):
        next(running)
    assert not pieces(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        running.throw(KeyboardInterrupt)
    assert [path.name for path in pieces(tmp_path)] == ["000000000-000000010.npz"]
    compute.through(journal, rows)
    assert compute.rows == 30


def test_a_damaged_piece_is_noticed_and_done_again(
    hf_tiny: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, compute, journal = rows_of(12), Counting(hf_tiny), Journal(tmp_path, seconds=0.0)
    wanted = compute.through(journal, rows)
    for damage in ("flip", "cut", "empty", "gone", "text"):
        piece = pieces(tmp_path)[4]
        content = bytearray(piece.read_bytes())
        # In the middle of an array: behind names and the header of an .npy.
        content[content.index(b"log_probs.npy") + 13 + 128] ^= 1
        changed = {"flip": bytes(content), "cut": bytes(content[:-100]), "empty": b"", "text": b"no piece"}
        piece.unlink()
        if damage != "gone":
            piece.write_bytes(changed[damage])
        capsys.readouterr()
        assert_equal(compute.through(journal, rows), wanted)
        assert compute.rows == 1, damage
        said = capsys.readouterr().err
        assert (f"{piece}: cannot be read" in said and "its rows are scored again" in said) == (damage != "gone")


def test_pieces_of_others_are_not_believed(
    hf_tiny: Checkpoint, openai_tiny: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, compute, journal = rows_of(12), Counting(hf_tiny), Journal(tmp_path, seconds=1000.0)
    compute.through(journal, rows)
    others = rows_of(9, seed=1)
    assert_equal(compute.through(journal, others), list(compute.scorer.score_all(others)))
    assert compute.rows == 9
    assert "is of another model, other settings or other rows: they are scored again" in capsys.readouterr().err
    assert [path.name for path in pieces(tmp_path)] == ["000000000-000000009.npz"]
    moved = [Row(row.tokens, row.first if number else 1) for number, row in enumerate(others)]
    moved[0] = Row(np.array([1, 2, 3], np.int32), 1)
    compute.through(journal, moved)
    assert compute.rows == 9
    another = Counting(openai_tiny)
    assert_equal(another.through(journal, moved), list(another.scorer.score_all(moved)))
    assert another.rows == 9


def test_fingerprints_tell_scorers_apart(hf_tiny: Checkpoint) -> None:
    params, config = hf_tiny.params, hf_tiny.config
    changed = params | {"wpe": params["wpe"].at[3, 4].add(1e-3)}
    prints = [
        Scorer(params, config).fingerprint,
        Scorer(params, config, compute_dtype="bfloat16").fingerprint,
        Scorer(params, config, banned=[4]).fingerprint,
        Scorer(changed, config).fingerprint,
    ]
    assert len(set(prints)) == 4
    assert Scorer(params, config, batch_tokens=99).fingerprint == prints[0]
    one = dataclasses.replace(config, scan_unroll=1)  # What journals from before 0 was the default say.
    assert Scorer(params, one).fingerprint == prints[0]


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from gpt2jax.evaluate.journal import Journal
from gpt2jax.evaluate.likelihood import Scorer
from tests.evaluate.test_journal import rows_of
from tests.helpers import FIXTURES
scorer = Scorer.load(FIXTURES / "hf_tiny", batch_tokens=4 * 32)
for number, scored in enumerate(scorer.score_all(rows_of(40), Journal(Path(sys.argv[1]), seconds=0.0))):
    if number == 20:
        os.kill(os.getpid(), 9)
"""


def test_a_kill_in_the_middle(hf_tiny: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "pieces"
    assert subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False).returncode == -9
    (folder / ".000000021-000000022.npz.0123abcd.tmp").write_bytes(b"half")  # What a kill in a write leaves.
    compute, rows = Counting(hf_tiny), rows_of(40)
    assert_equal(compute.through(Journal(folder), rows), list(compute.scorer.score_all(rows)))
    assert compute.rows in (19, 20)
    assert not [path for path in pieces(folder) if path.suffix != ".npz"]


TWO = """
import json, sys
from pathlib import Path
import jax
folder, port, process = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
from gpt2jax.config import MeshConfig
from gpt2jax.evaluate.journal import Journal
from gpt2jax.evaluate.likelihood import Scorer
from tests.evaluate.test_journal import rows_of
from tests.helpers import FIXTURES
scorer = Scorer.load(FIXTURES / "hf_tiny", MeshConfig(data=2, fsdp=2), batch_tokens=4 * 32)
# Its own folder: the second process sees nothing of what the first has written.
journal, rows = Journal(folder / str(process), seconds=1000.0), rows_of(20)
running = scorer.score_all(rows, journal)
for _ in range(8):
    next(running)
running.close()
told = []
again = [one.log_probs.tolist() for one in scorer.score_all(rows, journal, lambda done, remark: told.append(done))]
(folder / f"{process}.json").write_text(json.dumps([again, len(told)]))
"""


def test_of_two_processes_the_first_writes_and_tells_the_other(hf_tiny: Checkpoint, tmp_path: Path) -> None:
    run_two_processes(TWO, tmp_path)
    alone = [one.log_probs for one in Scorer(hf_tiny.params, hf_tiny.config).score_all(rows_of(20))]
    for process in range(2):
        found, _ = json.loads((tmp_path / f"{process}.json").read_text())
        for left, right in zip(found, alone, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-5)
    assert len(pieces(tmp_path / "0")) == 2
    assert not (tmp_path / "1").exists()
