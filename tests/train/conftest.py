"""What several tests of runs train on."""

import pytest

from gpt2jax.data.prepare import prepare


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Shards of some nine thousand bytes, of which the last tenth is for validation."""
    folder = tmp_path_factory.mktemp("corpus")
    text = folder / "text.txt"
    text.write_text("".join(f"{number} times {number} is {number * number}.\n" for number in range(400)))
    prepare([str(text)], folder / "shards", tokenizer="bytes", split="tail")
    return str(folder / "shards")
