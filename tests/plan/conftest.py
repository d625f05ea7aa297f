"""Plans of these tests are made on CPU devices that stand in, whatever compilers are installed."""

from collections.abc import Iterator

import pytest

from gpt2jax.plan import topology


@pytest.fixture(scope="module", autouse=True)
def stood_in_for() -> Iterator[None]:
    """Programs for chips are compiled in processes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topology, "has_compiler", lambda topology: False)
        yield
