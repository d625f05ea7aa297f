"""What is read from HLO texts: small ones in the compiler's own writing, and programs compiled here."""

import jax
import jax.numpy as jnp
import pytest

from gpt2jax.plan import program
from gpt2jax.plan.program import Collective, work

# As the compiler for TPU writes it: a loop of 24 turns, S(1) for the fast memory, notes of a kernel over several lines.
TPU = """HloModule jit_step, is_scheduled=true

%fused_computation.1 (param_0: f32[24,8,128], param_1: s32[]) -> f32[8,128] {
  %param_0 = f32[24,8,128]{2,1,0:T(8,128)} parameter(0)
  %param_1 = s32[]{:T(128)} parameter(1)
  %inner = f32[1,8,128]{2,1,0:T(8,128)} fusion(%param_0, %param_1), kind=kLoop, calls=%fused_computation.2
  ROOT %bitcast = f32[8,128]{1,0:T(8,128)} bitcast(%inner)
}

%fused_computation.2 (param_0.1: f32[24,8,128], param_1.1: s32[]) -> f32[1,8,128] {
  %param_0.1 = f32[24,8,128]{2,1,0:T(8,128)} parameter(0)
  %param_1.1 = s32[]{:T(128)} parameter(1)
  ROOT %slice = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%param_0.1, %param_1.1), dynamic_slice_sizes={1,8,128}
}

%fused_computation.3 (param_0.2: f32[24,8,128], param_1.2: f32[8,128], param_2: s32[]) -> f32[24,8,128] {
  %param_0.2 = f32[24,8,128]{2,1,0:T(8,128)} parameter(0)
  %param_1.2 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %param_2 = s32[]{:T(128)} parameter(2)
  %new = f32[1,8,128]{2,1,0:T(8,128)} bitcast(%param_1.2)
  ROOT %write = f32[24,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%param_0.2, %new, %param_2)
}

%async.1 (param_0.3: bf16[64,4096]) -> (bf16[64,4096], bf16[1024,4096], u32[]) {
  %param_0.3 = bf16[64,4096]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %gathered = bf16[1024,4096]{1,0:T(8,128)(2,1)} all-gather(%param_0.3), channel_id=5, replica_groups=mesh['a'=16,'b'=16], device_ids=([16,16]T(1,0)) {'a'}, dimensions={0}
  ROOT %custom = (bf16[64,4096]{1,0:T(8,128)(2,1)S(1)}, bf16[1024,4096]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) custom-call(%gathered), custom_call_target="AsyncCollectiveStart"
}

%body (state: (s32[], f32[24,8,128], f32[24,8,128])) -> (s32[], f32[24,8,128], f32[24,8,128]) {
  %state = (s32[]{:T(128)}, f32[24,8,128]{2,1,0:T(8,128)}, f32[24,8,128]{2,1,0:T(8,128)}) parameter(0)
  %at = s32[]{:T(128)} get-tuple-element(%state), index=0
  %stack = f32[24,8,128]{2,1,0:T(8,128)} get-tuple-element(%state), index=1
  %kept = f32[24,8,128]{2,1,0:T(8,128)} get-tuple-element(%state), index=2
  %cut = f32[8,128]{1,0:T(8,128)S(1)} fusion(%stack, %at), kind=kLoop, calls=%fused_computation.1, backend_config={"window_config":{"estimated_cycles":"100"}}
  %kernel = f32[8,128]{1,0:T(8,128)} custom-call(%cut), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, backend_config={"custom_call_config":{"body":"TUz"}}
  %reduced = (f32[8,128]{1,0:T(8,128)}, /*index=1*/f32[128]{0:T(128)}) all-reduce(%kernel, %bias), channel_id=2, replica_groups={{0,16,32},{1,17,33}}, to_apply=%add
  %put = f32[24,8,128]{2,1,0:T(8,128)} fusion(%kept, %kernel, %at), kind=kLoop, calls=%fused_computation.3, backend_config={"window_config":{"estimated_cycles":"50"}}
  ROOT %out = (s32[]{:T(128)}, f32[24,8,128]{2,1,0:T(8,128)}, f32[24,8,128]{2,1,0:T(8,128)}) tuple(%at, %stack, %put)
}

%condition (state.1: (s32[], f32[24,8,128], f32[24,8,128])) -> pred[] {
  %end = s32[]{:T(128)} constant(24)
  %state.1 = (s32[]{:T(128)}, f32[24,8,128]{2,1,0:T(8,128)}, f32[24,8,128]{2,1,0:T(8,128)}) parameter(0)
  %at.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%at.1, %end), direction=LT
}

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %start = (bf16[64,4096]{1,0:T(8,128)(2,1)S(1)}, bf16[1024,4096]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) fusion(%x), kind=kCustom, calls=%async.1
  %loop = (s32[]{:T(128)}, f32[24,8,128]{2,1,0:T(8,128)}, f32[24,8,128]{2,1,0:T(8,128)}) while(%x), condition=%condition, body=%body
  ROOT %copied = f32[8,128]{1,0:T(8,128)} copy(%x), backend_config={"estimated_cycles":"7"}
}
"""
ROW = 8 * 128 * 4


def test_a_program_for_tpu_is_counted_as_often_as_it_runs() -> None:
    found = work(TPU)
    assert found.cycles == 24 * (100 + 50) + 7
    # A turn reads the row it cuts, not the stack, and where (4 bytes), and writes it to the fast memory; the kernel reads
    # it there and writes a row; that is read, with where it goes, and written into its place.
    assert found.memory_bytes == 24 * (ROW + 4 + ROW + 2 * ROW + 4) + 2 * ROW
    assert found.collectives == (
        Collective("all-gather", tuple(range(16)), True, 1, 1024 * 4096 * 2.0),
        Collective("all-reduce", (0, 16, 32), False, 24, 24.0 * (ROW + 128 * 4)),
    )
    other = work(TPU.replace("constant(24)", "constant(12)").replace("S(1)", ""))
    assert other.cycles == 12 * 150 + 7
    assert other.memory_bytes == 12 * (ROW + 4 + ROW + 2 * ROW + 2 * ROW + 4) + 2 * ROW


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
    found = work(jax.jit(loop).lower(x).compile().as_text())
    assert [(one.kind, one.members, one.count) for one in found.collectives] == [("all-reduce", tuple(range(8)), 4)]
    assert found.collectives[0].bytes == 4 * 16 * 4
    assert found.cycles == 0
    assert found.memory_bytes > 4 * 8 * 16 * 4
