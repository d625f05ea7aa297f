"""Does it pay to keep weights in fewer bits and compute in float32? One product of gpt2-medium's MLP, 12 layers of it.

    python benchmarks/weight_types.py

Twelve matrices of 1024 x 4096, more than the processor's cache holds, are each multiplied by a batch of rows, as in a
step of decoding. Prints the time of all twelve as a Markdown table, the forms in turn (A B C A B C), medians.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

WIDTH, INNER, LAYERS, STEPS, ROUNDS = 1024, 4096, 12, 10, 7
BLOCKS = 16


def converted(x_BD: jax.Array, w_DF: jax.Array) -> jax.Array:
    return x_BD @ w_DF.astype(jnp.float32)


def in_bfloat16(x_BD: jax.Array, w_DF: jax.Array) -> jax.Array:
    return jnp.einsum("bd,df->bf", x_BD.astype(jnp.bfloat16), w_DF, preferred_element_type=jnp.float32)


def in_blocks(x_BD: jax.Array, w_DF: jax.Array) -> jax.Array:
    """Rows of the matrix a few at a time, so that what is converted stays in the processor's cache."""
    size = WIDTH // BLOCKS

    def add(block: jax.Array, sum_BF: jax.Array) -> jax.Array:
        w = jax.lax.dynamic_slice_in_dim(w_DF, block * size, size, 0).astype(jnp.float32)
        return sum_BF + jax.lax.dynamic_slice_in_dim(x_BD, block * size, size, 1) @ w

    return jax.lax.fori_loop(0, BLOCKS, add, jnp.zeros((x_BD.shape[0], INNER)))


FORMS: dict[str, tuple[str, Callable[[jax.Array, jax.Array], jax.Array]]] = {
    "float32": ("float32", converted),
    "bfloat16, converted": ("bfloat16", converted),
    "bfloat16, converted in blocks": ("bfloat16", in_blocks),
    "bfloat16, arithmetic too": ("bfloat16", in_bfloat16),
    "int8, converted": ("int8", converted),
    "int8, converted in blocks": ("int8", in_blocks),
}


def main() -> None:
    print("| weights | " + " | ".join(f"batch {batch}" for batch in (1, 8, 32)) + " |")
    print("|---|---|---|---|")
    times: dict[str, list[float]] = {name: [] for name in FORMS}
    for batch in (1, 8, 32):
        runs = {name: _runner(*form, batch) for name, form in FORMS.items()}
        for run in runs.values():
            run()
        rounds = [{name: run() for name, run in runs.items()} for _ in range(ROUNDS)]
        for name, column in times.items():
            column.append(statistics.median(one[name] for one in rounds))
    for name, column in times.items():
        against = [f"{1e3 * value:.1f} ms ({times['float32'][at] / value:.2f})" for at, value in enumerate(column)]
        print(f"| {name} | {' | '.join(against)} |")


def _runner(dtype: str, product: Callable[[jax.Array, jax.Array], jax.Array], batch: int) -> Callable[[], float]:
    keys = jax.random.split(jax.random.key(0), LAYERS)
    weights = [(32 * jax.random.normal(key, (WIDTH, INNER))).astype(dtype) for key in keys]

    @jax.jit
    def steps(weights: list[jax.Array], x_BD: jax.Array) -> jax.Array:
        def step(_: jax.Array, x_BD: jax.Array) -> jax.Array:
            for w_DF in weights:
                x_BD = x_BD + 1e-6 * product(x_BD, w_DF)[:, :WIDTH]
            return x_BD

        return jax.lax.fori_loop(0, STEPS, step, x_BD)

    def run() -> float:
        start = time.perf_counter()
        steps(weights, jnp.ones((batch, WIDTH))).block_until_ready()
        return (time.perf_counter() - start) / STEPS

    return run


if __name__ == "__main__":
    main()
