"""What is read from HLO texts: small ones in the compiler's own writing, and programs compiled here."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from gpt2jax import program
from gpt2jax.program import Collective, work

# By hand, as the compiler for TPU writes: a loop of 24 turns, S(1) for the fast memory, a kernel's notes over several
# lines, a collective that goes on beside what follows.
TPU = (Path(__file__).parent / "golden" / "tpu_program.hlo").read_text()
ROW = 8 * 128 * 4


def test_a_program_for_tpu_is_counted_as_often_as_it_runs() -> None:
    found = work(TPU)
    # Of the conditional the branch that does nothing counts.
    assert (found.cycles, found.product_cycles) == (24 * (100 + 50) + 1000 + 7, 1000)
    # A turn reads the row it cuts, not the stack, and where (4 bytes), and writes it to the fast memory; the kernel
    # reads it there and writes a row; that is read, with where it goes, and written into its place.
    product = 2 * (8 * 64 + 64 * 32) + 4 * 8 * 32
    assert found.memory_bytes == 24 * (ROW + 4 + ROW + 2 * ROW + 4) + product + 2 * ROW
    assert found.collectives == (
        Collective("all-gather", tuple(range(16)), True, 1, 1024 * 4096 * 2.0),
        Collective("all-reduce", (0, 16, 32), False, 24, 24.0 * (ROW + 128 * 4)),
        Collective("collective-permute", (1, 2), False, 1, float(ROW)),
        Collective("reduce-scatter", tuple(range(16)), False, 1, 64 * 32 * 4.0),
    )
    other = work(TPU.replace("constant(24)", "constant(12)").replace("S(1)", ""))
    assert other.cycles == 12 * 150 + 1000 + 7
    assert other.memory_bytes == 12 * (ROW + 4 + ROW + 2 * ROW + 2 * ROW + 4) + product + 2 * ROW
    turn = work(TPU, in_loop=True)
    assert (turn.cycles, turn.product_cycles) == (150, 0)
    assert [one.count for one in turn.collectives] == [1]


@pytest.mark.parametrize(("sync", "hidden"), [("false", True), ("true", False)])
def test_a_gpu_says_whether_an_exchange_is_waited_for(sync: str, hidden: bool) -> None:
    """As the compiler for GPUs writes one in two parts."""
    text = f"""HloModule jit_step

ENTRY %main (a: f32[64]) -> f32[64] {{
  %a = f32[64]{{0}} parameter(0)
  %start = ((f32[64]{{0}}), f32[64]{{0}}) all-reduce-start(%a), replica_groups={{{{0,1}}}}, to_apply=%add, backend_config={{"collective_backend_config":{{"is_sync":{sync}}}}}
  ROOT %done = f32[64]{{0}} all-reduce-done(%start)
}}
"""  # noqa: E501
    assert work(text).collectives == (Collective("all-reduce", (0, 1), hidden, 1, 64 * 4.0),)


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("replica_groups={{0,2},{1,3}}", (0, 2)),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups=mesh['x'=2,'y'=4] {'y'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['x'=2,'y'=4] {'x'}", (0, 4)),
        ("replica_groups=mesh['x'=2,'y'=4], device_ids=([2,4]T(1,0)) {'x'}", (0, 2)),
        ("source_target_pairs={{0,1},{1,0}}", (0, 1)),
        ("source_target_pairs={{0,0},{1,2},{2,1}}", (1, 2)),
        ("source_target_pairs={{3,3}}", (3,)),
    ],
)
def test_groups_of_devices_are_read_in_every_form(text: str, members: tuple[int, ...]) -> None:
    assert program._members(f", channel_id=1, {text}, use_global_device_ids=true") == members


def test_a_form_of_groups_that_is_not_known_is_no_guess() -> None:
    with pytest.raises(ValueError, match="in a form that is not known"):
        program._members("replica_groups=everyone")


def test_a_program_compiled_here_is_read_too() -> None:
    """Four turns of a product and a running sum, over eight devices."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))

    def loop(x: jax.Array) -> jax.Array:
        def body(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            return carry + jnp.sum(x * carry[None], axis=0), None

        return jax.lax.scan(body, jnp.ones(16), None, length=4)[0]

    x = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=sharding)
    found = work(str(jax.jit(loop).lower(x).compile().as_text()))
    assert [(one.kind, one.members, one.count) for one in found.collectives] == [("all-reduce", tuple(range(8)), 4)]
    assert found.collectives[0].bytes == 4 * 16 * 4
    assert found.cycles == 0
    assert found.memory_bytes > 4 * 8 * 16 * 4
