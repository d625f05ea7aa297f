"""Bad input: each fault is caught where the format lets it be, and named in one line."""

import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpt2jax.errors import GPT2JaxError, GPT2JaxWarning
from gpt2jax.weights import pickled
from gpt2jax.weights.convert import convert
from gpt2jax.weights.mapped import MappedFile
from gpt2jax.weights.safetensors_file import write_safetensors
from gpt2jax.weights.sources import load, open_weights
from gpt2jax.weights.table import BLOCK_BYTES, Reader, encode_table, masked_crc, read_table
from gpt2jax.weights.torch_file import storage_of, write_torch_file
from gpt2jax.weights.weights import load_params
from tests.helpers import TINY, place_on
from tests.weights.helpers import FIXTURES, GOLDEN, copied, flip, held, params_of, reference, same, write


def refusal(path: Path) -> str:
    with pytest.raises(GPT2JaxError) as caught:
        load(path)
    line = str(caught.value)
    assert "\n" not in line
    return line


# Tensors that are not the model's.


def rewritten(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    """The golden safetensors with its tensors changed."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_every_missing_unknown_and_misshapen_tensor_is_named(tmp_path: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        del tensors["transformer.wpe.weight"], tensors["transformer.h.1.ln_2.bias"]
        tensors["transformer.h.2.ln_1.bias"] = np.zeros(8, np.float32)
        tensors["classifier"] = np.zeros(3, np.float32)
        tensors["transformer.h.0.mlp.c_fc.weight"] = np.zeros((32, 8), np.float32)
        tensors["transformer.ln_f.bias"] = np.zeros(8, np.int64)

    folder = rewritten(copied(GOLDEN / "safetensors", tmp_path), change)
    faults = refusal(folder).removeprefix(f"{folder / 'model.safetensors'}: ").split("; ")
    assert sorted(faults) == [
        "classifier is unknown",
        "h.0.mlp.c_fc.weight has shape [32, 8] instead of [8, 32]",
        "h.1.ln_2.bias is missing",
        "h.2.ln_1.bias is unknown",
        "ln_f.bias is I64 instead of float32, float16, bfloat16",
        "wpe.weight is missing",
    ]


def test_an_untied_head_is_refused_by_name_and_a_tied_one_is_dropped(tmp_path: Path) -> None:
    def tie(tensors: dict[str, np.ndarray]) -> None:
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].copy()

    def untie(tensors: dict[str, np.ndarray]) -> None:
        tensors["lm_head.weight"][19, 7] += 1e-6

    folder = rewritten(copied(GOLDEN / "safetensors", tmp_path), tie)
    assert same(params_of(folder), reference())
    assert "lm_head.weight differs from wte.weight" in refusal(rewritten(folder, untie))


def test_tensors_at_unaligned_places_are_read(tmp_path: Path) -> None:
    """As in the released gpt2, whose header has 14,283 bytes."""
    path = copied(GOLDEN / "safetensors", tmp_path) / "model.safetensors"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    path.write_bytes((size + 3).to_bytes(8, "little") + raw[8 : 8 + size] + b"   " + raw[8 + size :])
    assert same(params_of(path.parent), reference())


@pytest.mark.parametrize("turned", [False, True])
def test_values_that_are_not_finite_warn_by_name(tmp_path: Path, turned: bool) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["transformer.h.1.mlp.c_fc.weight"][3, 5:7] = np.nan
        tensors["transformer.wte.weight"][19, 7] = np.inf

    folder = rewritten(copied(GOLDEN / "safetensors", tmp_path), change)
    with pytest.warns(GPT2JaxWarning) as caught:
        load_params(open_weights(folder), place_on(1, 1, 1), turned=turned)
    assert [str(warning.message).removeprefix(f"{folder}: ") for warning in caught] == [
        "wte: 1 of its values are NaN or infinite",
        "h/mlp/c_fc/kernel: 2 of its values are NaN or infinite (layer 1)",
    ]


def test_what_leaves_the_range_of_float16_warns(tmp_path: Path) -> None:
    weights = held(TINY)
    weights.params["ln_f"]["scale"] = weights.params["ln_f"]["scale"].at[0].set(1e6)
    for to in ("huggingface", "orbax"):
        with pytest.warns(GPT2JaxWarning, match="memory: ln_f/scale in float16: 1 of its values"):
            write(weights, tmp_path, to, dtype="float16")
    stored = write(weights, tmp_path / "float32", "orbax")
    with pytest.warns(GPT2JaxWarning, match="ln_f/scale in float16: 1 of its values"):
        convert(open_weights(stored), tmp_path / "again", "orbax", "float16", progress=False)
    weights.params["ln_f"]["scale"] = weights.params["ln_f"]["scale"].at[0].set(np.nan)
    with pytest.warns(GPT2JaxWarning, match="ln_f/scale: 1 of its values"):
        stored = write(weights, tmp_path / "nan", "orbax")
    with pytest.warns(GPT2JaxWarning, match="ln_f/scale: 1 of its values"):
        load(stored)


# Files cut short, and flipped bits.


@pytest.mark.parametrize(
    "name",
    [
        "safetensors/model.safetensors",
        "sharded/model-00002-of-00003.safetensors",
        "zip/pytorch_model.bin",
        "legacy/pytorch_model.bin",
        "flax/flax_model.msgpack",
        "nanogpt/ckpt.pt",
        "tf_sharded/model.ckpt.index",
        "tf_sharded/model.ckpt.data-00001-of-00002",
    ],
)
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    path = copied((GOLDEN / name).parent, tmp_path) / Path(name).name
    raw = path.read_bytes()
    for size in (0, 1, 7, 8, len(raw) // 3, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:size])
        assert str(path) in refusal(path.parent), size


def test_a_file_of_llmc_must_have_the_size_that_its_header_says(tmp_path: Path) -> None:
    path = write(held(TINY), tmp_path, "llmc")
    raw = path.read_bytes()
    for size in (1023, len(raw) - 1):
        path.write_bytes(raw[:size])
        assert "cut short or damaged" in refusal(path)
    path.write_bytes(raw + b"\0")
    assert "cut short or damaged" in refusal(path)
    path.write_bytes(raw[:4] + (4).to_bytes(4, "little") + raw[8:])
    assert "version 4: should be 3 (float32) or 5 (bfloat16)" in refusal(path)


def test_a_bundles_checksums_catch_every_flipped_bit(tmp_path: Path) -> None:
    folder = copied(FIXTURES / "openai_tf_tiny", tmp_path)
    data, index = folder / "model.ckpt.data-00000-of-00001", folder / "model.ckpt.index"
    for at in (0, 777, data.stat().st_size - 1):
        flip(data, at)
        assert "checksum" in refusal(folder)
        flip(data, at)
    for at in (3, 500, index.stat().st_size // 2, index.stat().st_size - 60):
        flip(index, at)
        assert "checksum" in refusal(folder)
        flip(index, at)
    assert open_weights(folder).origin.notes[0] == "the checksums (CRC-32C) of all tensors are compared"
    load(folder)


def test_torchs_checksums_catch_a_flipped_bit(tmp_path: Path) -> None:
    path = copied(GOLDEN / "zip", tmp_path) / "pytorch_model.bin"
    with zipfile.ZipFile(path) as archive:
        start = next(entry.header_offset for entry in archive.infolist() if entry.filename.endswith("/data/0"))
    header = path.read_bytes()[start : start + 30]
    at = start + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    flip(path, at + 5)
    assert "checksum" in refusal(path.parent)


@pytest.mark.parametrize("name", ["safetensors", "legacy", "flax"])
def test_formats_without_a_checksum_say_so(name: str) -> None:
    assert "carries no checksum" in open_weights(GOLDEN / name).origin.notes[0]


def test_variables_in_slices_are_refused_by_name() -> None:
    assert "model/wpe: stored in slices" in refusal(GOLDEN / "tf_sliced")


def test_a_compressed_index_is_refused_by_name(tmp_path: Path) -> None:
    folder = copied(FIXTURES / "openai_tf_tiny", tmp_path)
    index = folder / "model.ckpt.index"
    raw = bytearray(index.read_bytes())
    # The first block ends where the next one, of meta data, begins: its place stands first in the footer.
    end = Reader(bytes(raw[-48:]), index).varint()
    raw[end - 5] = 1
    raw[end - 4 : end] = masked_crc(bytes(raw[: end - 4])).to_bytes(4, "little")
    index.write_bytes(raw)
    assert "compressed (snappy)" in refusal(folder)


def test_a_dtype_of_tensorflows_that_is_no_float_is_named(tmp_path: Path) -> None:
    folder = copied(FIXTURES / "openai_tf_tiny", tmp_path)
    entries = list(read_table(MappedFile(folder / "model.ckpt.index")))
    for number, expected in ((3, "is int32 instead of float32"), (23, "TensorFlow's dtype 23")):
        changed = [
            (key, b"\x08" + bytes([number]) + value[2:] if key == b"model/wpe" else value) for key, value in entries
        ]
        (folder / "model.ckpt.index").write_bytes(encode_table(changed))
        assert expected in refusal(folder)
        assert "model/wpe" in refusal(folder)


def test_tables_of_many_blocks_go_round(tmp_path: Path) -> None:
    entries = [(f"{number:06d}".encode(), bytes([number % 256]) * 900) for number in range(1000)]
    raw = encode_table(entries)
    assert len(raw) > 3 * BLOCK_BYTES
    (tmp_path / "table").write_bytes(raw)
    assert list(read_table(MappedFile(tmp_path / "table"))) == entries


# Pickles.


class Evil:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Evil(print, "executed"), "(builtins|__builtin__).print"),
        (Evil(eval, "1 + 1"), "(builtins|__builtin__).eval"),
        (Evil(getattr, {}, "keys"), "(builtins|__builtin__).getattr"),
        (Evil(os.system, "true"), "posix.system"),
        (np.float64(1.0), "numpy"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_executes_nothing(value: Any, name: str, protocol: int) -> None:
    pickle.loads(pickle.dumps({"a": value}, protocol))  # It is a pickle that works.
    with pytest.raises(GPT2JaxError, match=f"its pickle names {name}"):
        pickled.load(io.BytesIO(pickle.dumps({"a": value}, protocol)), "here")


def test_a_model_file_that_would_execute_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(GOLDEN / "zip", tmp_path)
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pytorch_model/data.pkl", pickle.dumps({"wte.weight": Evil(print, "executed")}, 2))
    assert "__builtin__.print" in refusal(folder)
    assert capsys.readouterr().out == ""


def test_plain_values_of_a_pickle_are_what_they_were() -> None:
    value = {"a": [1, -7, 2.5, None, True, "é"], "b": {"c": (1, 2)}, 3: 2**70}
    assert pickled.load(io.BytesIO(pickle.dumps(value, 2)), "here") == value
    dumped = {"text": "é", "big": -(2**70), "zero": 0, "byte": 255, "no": None, "yes": True, "x": 2.5, 4: ("a", 1)}
    assert pickle.loads(pickled.dump(dumped)) == dumped


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (0, (2, 2), (4, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2,), ()),
        (0.5, (1,), (1,)),
    ],
)
def test_a_tensor_cannot_reach_outside_its_storage(offset: Any, shape: Any, stride: Any) -> None:
    storage = pickled.Storage("float32", "0", 4)
    pickled.PickledTensor(storage, 0, (2, 2), (2, 1)).check("w", "here")
    with pytest.raises(GPT2JaxError, match="here: w: reaches outside its storage"):
        pickled.PickledTensor(storage, offset, shape, stride).check("w", "here")


def test_a_pickle_can_change_nothing_of_this_package() -> None:
    """BUILD sets attributes of what a pickle names."""
    for name in (b"_rebuild_tensor_v2", b"_rebuild_parameter"):
        program = b"\x80\x02ctorch._utils\n" + name + b"\n}(X\x01\x00\x00\x00aK\x01ub."
        with pytest.raises(GPT2JaxError, match="cannot be read"):
            pickled.load(io.BytesIO(program), "here")


def test_a_pickle_cannot_ask_for_gigabytes(tmp_path: Path) -> None:
    with pytest.raises(GPT2JaxError, match="memo entry 2147483647"):
        pickled.load(io.BytesIO(b"\x80\x02]r\xff\xff\xff\x7f."), "here")
    folder = copied(GOLDEN / "zip", tmp_path)
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pytorch_model/data.pkl", pickle.dumps("x" * 10_000_000, 2))
    assert "pytorch_model/data.pkl is compressed" in refusal(folder)


def test_storages_must_be_of_a_known_dtype_and_as_long_as_their_file(tmp_path: Path) -> None:
    folder = copied(GOLDEN / "safetensors", tmp_path)
    (folder / "model.safetensors").unlink()
    state = {"wte.weight": storage_of("0", "float32", (20, 8))}
    write_torch_file(folder / "pytorch_model.bin", state, [("0", np.zeros(159, np.float32))])
    assert "its storage has 636 bytes: should be 640" in refusal(folder)
    write_torch_file(folder / "pytorch_model.bin", state, [("1", np.zeros(160, np.float32))])
    assert "its storage 0 is missing" in refusal(folder)
    garbage = b"\x80\x02(X\x07\x00\x00\x00storageX\x07\x00\x00\x00garbageX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ."
    with pytest.raises(GPT2JaxError, match="a reference to something else than a storage"):
        pickled.load(io.BytesIO(garbage), "here")


def complaint(folder: Path) -> str:
    """What loading refuses with; nothing when it loads."""
    try:
        load(folder)
    except GPT2JaxError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["zip", "nanogpt", "legacy", "flax", "safetensors", "tf_sharded"])
def test_no_flipped_bit_ends_in_anything_but_one_line(tmp_path: Path, name: str) -> None:
    """Whatever byte of whatever file is damaged: it loads (where there is no checksum), or is refused."""
    folder = copied(GOLDEN / name, tmp_path)
    rng = np.random.default_rng(0)
    refused = 0
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        raw = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(raw)
            damaged[rng.integers(len(raw))] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", GPT2JaxWarning)
                line = complaint(folder)
            assert "\n" not in line
            refused += bool(line)
        path.write_bytes(raw)
    assert refused > 10
    load(folder)


def test_a_number_of_layers_from_a_damaged_file_is_refused_at_once(tmp_path: Path) -> None:
    path = write(held(TINY), tmp_path, "llmc")
    raw = path.read_bytes()
    path.write_bytes(raw[:16] + (30_000_000).to_bytes(4, "little") + raw[20:])
    assert "model.n_layer: 30000000: should be less than or equal to 10000" in refusal(path)


# Structures that are not what they should be.


def test_msgpack_files_hold_nested_maps_of_arrays(tmp_path: Path) -> None:
    folder = copied(GOLDEN / "flax", tmp_path)
    path = folder / "flax_model.msgpack"
    array = msgpack.packb(((2,), "float32", b"\0" * 8))
    for value, message in (
        ({"transformer": 5}, "should begin a map"),
        ({5: {}}, "should begin a key"),
        ({"a": msgpack.ExtType(2, array)}, "extension 2"),
        ({"a": msgpack.ExtType(1, b"\x01")}, "not an array"),
        ({"a": msgpack.ExtType(1, msgpack.packb(((3,), "float32", b"\0" * 8)))}, r"8 bytes do not hold [3] of float32"),
        ({"a": msgpack.ExtType(1, array)}, "a is unknown"),
    ):
        path.write_bytes(msgpack.packb(value))
        assert message in refusal(folder)
    path.write_bytes(b"\x81\xa1a" * 5000 + b"\x80")
    assert "maps within maps 16 deep" in refusal(folder)
    path.write_bytes(msgpack.packb({}) + b"\0")
    assert "should end after 1" in refusal(folder)


def test_safetensors_whose_header_contradicts_itself_are_refused(tmp_path: Path) -> None:
    folder = copied(GOLDEN / "safetensors", tmp_path)
    path = folder / "model.safetensors"
    for row, message in (
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "do not hold [2] of F32"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}, "do not hold"),
        ({"dtype": "F32", "shape": [1]}, "cannot be read"),
        ([1], "cannot be read"),
    ):
        header = json.dumps({"w": row}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * (4 if "[0, 4]" in str(row) else 0))
        assert message in refusal(folder)
    write_safetensors(path, {"w": (2,)}, "float32", [np.zeros(2, np.float32)])
    assert "w is unknown" in refusal(folder)


def test_an_index_of_shards_names_files_beside_it_and_what_is_in_them(tmp_path: Path) -> None:
    folder = copied(GOLDEN / "sharded", tmp_path)
    index = folder / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    places = whole["weight_map"]
    for changed, message in (
        (places | {"transformer.wpe.weight": "../model.safetensors"}, "should be the name of a file beside it"),
        (places | {"transformer.wpe.weight": "none.safetensors"}, "cannot be read"),
        (
            places | {"transformer.h.9.x": "model-00001-of-00003.safetensors"},
            "transformer.h.9.x is missing from model-00001",
        ),
    ):
        index.write_text(json.dumps({"weight_map": changed}))
        assert message in refusal(folder)
    index.write_text("[]")
    assert "holds a list: should be an object" in refusal(folder)
    index.write_text("{}")
    assert "cannot be read as an index" in refusal(folder)


def test_folders_that_hold_no_model_say_what_is_missing(tmp_path: Path) -> None:
    assert "holds no GPT-2" in refusal(tmp_path)
    (tmp_path / "hparams.json").write_text('{"n_vocab": 20}')
    assert "hparams.json: n_ctx, n_embd, n_head, n_layer: missing" in refusal(tmp_path)
    sizes = {"n_vocab": 20, "n_ctx": 8, "n_embd": 8, "n_head": 3, "n_layer": 2}
    (tmp_path / "hparams.json").write_text(json.dumps(sizes))
    assert "should be a multiple of model.n_head (3)" in refusal(tmp_path)
    (tmp_path / "hparams.json").write_text(json.dumps(sizes | {"n_head": 2}))
    assert "no file named checkpoint, and 0 .index files" in refusal(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model-7"')
    assert f"{tmp_path / 'model-7.index'}: cannot be read" in refusal(tmp_path)
    for damaged in (b"\xff\xfe", b'model_checkpoint_path: "a\0b"'):
        (tmp_path / "checkpoint").write_bytes(damaged)
        assert "names no model_checkpoint_path" in refusal(tmp_path)
    assert "no weights: should hold one of model.safetensors" in refusal(_only_config(tmp_path / "hf"))
    assert "nearest: gpt2" in refusal(Path("gpt3"))
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.txt").write_text("text")
    assert "not a file of GPT-2 weights" in refusal(tmp_path / "b" / "a.txt")


def _only_config(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_bytes((GOLDEN / "safetensors" / "config.json").read_bytes())
    return folder


def test_nanogpts_checkpoint_must_be_one(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "ckpt.pt", {"model": {}}, [])
    assert "not a checkpoint of nanoGPT's (KeyError: 'model_args')" in refusal(tmp_path)
    arguments = {
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 8,
        "block_size": 8,
        "vocab_size": 20,
        "bias": True,
        "dropout": 0.0,
    }
    write_torch_file(tmp_path / "ckpt.pt", {"model": {"a": 3}, "model_args": arguments}, [])
    assert "a is a int: should be tensors" in refusal(tmp_path)
    write_torch_file(tmp_path / "ckpt.pt", {"model": {}, "model_args": arguments | {"dropout": 10**400}}, [])
    assert "not a checkpoint of nanoGPT's (OverflowError" in refusal(tmp_path)
    state = {"transformer.ln_f.bias": storage_of("0", "float32", (8,))}
    contradiction = {"model": state, "model_args": arguments | {"bias": False}}
    write_torch_file(tmp_path / "ckpt.pt", contradiction, [("0", np.zeros(8, np.float32))])
    assert "bias: False, but it holds transformer.ln_f.bias" in refusal(tmp_path)
    write_torch_file(tmp_path / "ckpt.pt", {"model": {}, "model_args": arguments | {"n_head": 3}}, [])
    assert "model_args: model.n_embd: 8: should be a multiple of model.n_head (3)" in refusal(tmp_path)
