"""Token files: their exact bytes, there and back, and what is refused."""

import hashlib
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2jax import tokenizer
from gpt2jax.data.shards import Format, ShardWriter, Split, open_shard
from gpt2jax.errors import GPT2JaxError
from tests.data.test_prepare import shared_data


def write(folder: Path, format: Format, *arrays: list[int], split: Split = "train", shard_tokens: int = 4) -> list[str]:
    with ShardWriter(folder, "corpus", split, format, 65536, shard_tokens) as writer:
        for array in arrays:
            writer.write(np.array(array, np.uint32))
    assert writer.tokens == sum(map(len, arrays))
    return writer.files


def llmc_bytes(tokens: list[int], magic: int = 20240520, version: int = 1, count: int | None = None) -> bytes:
    header = [magic, version, len(tokens) if count is None else count] + [0] * 253
    return np.array(header, "<i4").tobytes() + np.array(tokens, "<u2").tobytes()


def test_nanogpt_is_bare_little_endian_uint16(tmp_path: Path) -> None:
    assert write(tmp_path, "nanogpt", [1, 258], [65535, 0, 7]) == ["train.bin"]
    assert (tmp_path / "train.bin").read_bytes() == b"\x01\x00\x02\x01\xff\xff\x00\x00\x07\x00"
    assert write(tmp_path, "nanogpt", [3], split="validation") == ["val.bin"]


def test_llmc_has_a_header_and_full_shards(tmp_path: Path) -> None:
    files = write(tmp_path, "llmc", [1, 2, 3], [4, 5, 6, 7, 8, 9], [10])
    assert files == [f"corpus_train_00000{i}.bin" for i in (1, 2, 3)]
    contents = [(tmp_path / name).read_bytes() for name in files]
    assert contents == [llmc_bytes([1, 2, 3, 4]), llmc_bytes([5, 6, 7, 8]), llmc_bytes([9, 10])]
    assert contents[0][:12] == b"\x88\xd8\x34\x01\x01\x00\x00\x00\x04\x00\x00\x00"


def test_llmc_numbers_validation_from_zero_and_starts_no_empty_shard(tmp_path: Path) -> None:
    assert write(tmp_path, "llmc", [1, 2, 3, 4], [], split="validation") == ["corpus_val_000000.bin"]


@settings(max_examples=40)
@given(
    format=st.sampled_from(["nanogpt", "llmc"]),
    # Not 65535: a file that starts with llm.c's number is an llm.c file, and 55,432 is no GPT-2 token.
    arrays=st.lists(st.lists(st.integers(0, 50256), max_size=9), min_size=1).filter(any),
    shard_tokens=st.integers(1, 7),
)
def test_round_trip(format: Format, arrays: list[list[int]], shard_tokens: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        files = write(Path(name), format, *arrays, shard_tokens=shard_tokens)
        shards = [open_shard(Path(name) / file) for file in files]
        assert {shard.format for shard in shards} == {format}
        assert all(shard.tokens == shard_tokens for shard in shards[:-1])
        read = np.concatenate([np.array(shard.memmap()) for shard in shards])
    assert read.dtype == np.uint16
    assert read.tolist() == list(itertools.chain(*arrays))


def test_llmc_tiny_shakespeare_is_made_bit_for_bit(tmp_path: Path) -> None:
    """The two files that llm.c's dev/data/tinyshakespeare.py makes, section by section."""
    text = shared_data("tinyshakespeare.txt").read_bytes().decode()
    sections = [section + "\n\n" for section in text.split("\n\n")]
    sections[-1] = sections[-1].removesuffix("\n\n")
    tokens = np.concatenate(
        [np.append([50256], tokenizer.encode_corpus(tokenizer.gpt2(), section)) for section in sections]
    )
    digests = []
    for split, part in (("validation", tokens[:32768]), ("train", tokens[32768:])):
        with ShardWriter(tmp_path, "tiny_shakespeare", split, "llmc", 50257) as writer:  # type: ignore[arg-type]
            writer.write(part)
        digests.append(hashlib.sha256((tmp_path / writer.files[0]).read_bytes()).hexdigest())
    assert digests == [
        "fe99db720dc7c83e694806d4e047a952909411da1daccde4ccc2e55f40882a62",
        "8a70606be574040c26d225694f5f9759973b419852d22f7fe5c118e1b359dcc8",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes: an empty shard"),
        (b"\x01\x00\x02", "3 bytes: should be an even number"),
        (llmc_bytes([1, 2, 3])[:-2], "1,028 bytes: cut short: should be 1,030 for the header's 3 tokens"),
        (llmc_bytes([1, 2, 3])[:-1], "1,029 bytes: cut short: should be 1,030"),
        (llmc_bytes([1, 2, 3]) + b"\0", "1,031 bytes: trailing bytes: should be 1,030"),
        (llmc_bytes([])[:1000], "1,000 bytes: cut short: llm.c's header alone is 1,024"),
        (llmc_bytes([]), "0 tokens by its header: an empty shard"),
        (llmc_bytes([1], count=-5), "-5 tokens by its header"),
        (llmc_bytes([1], version=2), "llm.c data version 2: unsupported: should be 1"),
        (llmc_bytes([1], magic=20240326), "20240326: llm.c model file"),
        (llmc_bytes([1], magic=20240522), "20240522: llm.c evaluation file"),
        (llmc_bytes([1], magic=20240801, version=7), "20240801: llm.c Llama 3 data"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train.bin"
    path.write_bytes(content)
    with pytest.raises(GPT2JaxError, match=message) as caught:
        open_shard(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_expected_format_is_enforced(tmp_path: Path) -> None:
    good, flipped, bare = (tmp_path / name for name in ("good.bin", "flipped.bin", "bare.bin"))
    good.write_bytes(llmc_bytes([1, 2]))
    flipped.write_bytes(bytes([good.read_bytes()[0] ^ 1]) + good.read_bytes()[1:])
    bare.write_bytes(b"\x01\x00\x02\x00")
    assert open_shard(good, "llmc").tokens == 2
    assert open_shard(bare, "nanogpt").tokens == 2
    for path in (flipped, bare):
        with pytest.raises(GPT2JaxError, match=r"wrong header: starts with .*: should start with llm\.c's 20240520"):
            open_shard(path, "llmc")
    with pytest.raises(GPT2JaxError, match=r"wrong header: starts with llm\.c's 20240520: should be nanoGPT's"):
        open_shard(good, "nanogpt")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(GPT2JaxError, match=r"train\.bin: cannot be read as a token shard"):
        open_shard(tmp_path / "train.bin")


def test_tokens_that_16_bits_or_the_vocabulary_do_not_hold(tmp_path: Path) -> None:
    with pytest.raises(GPT2JaxError, match="vocabulary: 65,537 tokens: should be at most 65,536"):
        ShardWriter(tmp_path, "x", "train", "nanogpt", 65537)
    with ShardWriter(tmp_path, "x", "train", "nanogpt", 257) as writer:
        writer.write(np.array([256]))
        with pytest.raises(GPT2JaxError, match="token 257: should be from 0 to 256"):
            writer.write(np.array([0, 257]))
    for wrong in (0, 2**31):
        with pytest.raises(GPT2JaxError, match=r"shard tokens: .*: should be from 1 to 2,147,483,647"):
            ShardWriter(tmp_path, "x", "train", "llmc", 257, wrong)
