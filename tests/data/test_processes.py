"""Two real processes read the rows of the batch that one process would."""

from pathlib import Path

import numpy as np
import pytest

from gpt2jax.data.pipeline import batches, open_split
from gpt2jax.data.prepare import prepare
from tests.helpers import run_two_processes

# Each process: 4 of the mesh's 8 devices, its rows of batches 3 and 4 into a file.
WORKER = """
import sys
import jax, numpy as np
folder, port, process = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
from gpt2jax.config import MeshConfig
from gpt2jax.data.pipeline import TokenWindows, open_split, training_batches
from gpt2jax.partition import Partition, make_mesh
place = Partition(make_mesh(MeshConfig(data=4, tensor=2)))
read = set()
class Noting(TokenWindows):
    def __getitem__(self, index):
        read.add(index)
        return super().__getitem__(index)
windows, _, _ = open_split(f"{folder}/shards", "train", 16, 257)
windows = Noting(windows.shards, 16, 257)
rows = training_batches(windows, seed=7, batch_size=8, start_step=3, batch_sharding=place.sharding("batch", None),
                        read_threads=1, read_buffer=8)
np.save(f"{folder}/{process}.npy", np.stack([next(rows), next(rows)]))
rows.close()
np.save(f"{folder}/read{process}.npy", sorted(read))
"""


def test_two_processes_hold_together_the_batch_of_one(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {number}\n" for number in range(500)))
    prepare([str(text)], tmp_path / "shards", tokenizer="bytes", split="tail")
    run_two_processes(WORKER, tmp_path)

    windows, _, _ = open_split(tmp_path / "shards", "train", 16, 257)
    alone = batches(windows, seed=7, batch_size=8, start_step=3, shard_index=0, shard_count=1)
    wanted = np.stack([next(alone), next(alone)])
    alone.close()
    halves = [np.load(tmp_path / f"{process}.npy") for process in range(2)]
    assert [half.shape for half in halves] == [(2, 4, 17)] * 2
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), wanted)
    # Each read its own windows, and those ahead, and none of the other's: fewer than an epoch are read here.
    read = [set(np.load(tmp_path / f"read{process}.npy").tolist()) for process in range(2)]
    assert not read[0] & read[1]
    assert len(read[0] | read[1]) < len(windows)
    for half, mine, others in zip(halves, read, read[::-1], strict=True):
        rows = {row.tobytes() for row in half.reshape(-1, 17)}
        assert rows <= {windows[index].tobytes() for index in mine}
        assert not rows & {windows[index].tobytes() for index in others}
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(np.concatenate(halves[::-1], axis=1), wanted)
