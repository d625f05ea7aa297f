"""What a compiled program does, read from its HLO text: traffic to memory, the compiler's cycles, collectives.

XLA's own ``cost_analysis`` counts a loop's body once, however often it turns; here each instruction counts as often as
it runs.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_BITS = {
    "pred": 8,
    "s2": 2,
    "u2": 2,
    "s4": 4,
    "u4": 4,
    "f8e4m3": 8,
    "s8": 8,
    "u8": 8,
    "f8e4m3fn": 8,
    "f8e5m2": 8,
    "s16": 16,
    "u16": 16,
    "bf16": 16,
}
_BITS |= {"f16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64}
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_BEGINS = re.compile(r"\s+(ROOT )?%?[\w.-]+ = ")
# What names or rearranges data that is there, or waits for an instruction that has been counted.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id"}
_SLICES = {"dynamic-slice", "slice", "gather"}


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    shape: str
    opcode: str
    arguments: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.-]+)", self.arguments)

    def called(self, role: str) -> str:
        """The computation that the instruction uses as its ``role``; KeyError without one."""
        found = re.search(rf"\b{role}=%?([\w.-]+)", self.attributes)
        if not found:
            raise KeyError(f"{self.name}: no {role}")
        return found.group(1)

    def number(self, key: str) -> float:
        """A number among the compiler's notes on this instruction, 0 without."""
        found = re.search(rf'"{key}":"?(\d+)', self.attributes)
        return float(found.group(1)) if found else 0.0


@dataclasses.dataclass(frozen=True)
class Collective:
    """All runs in a program of one kind of exchange among the same groups of devices."""

    kind: str
    members: tuple[int, ...]
    """Of the first group, which stands for all: numbers of devices in the order of the mesh. Of a permutation: the
    first device that sends to another, and that one."""
    hidden: bool
    """Whether the program goes on computing meanwhile."""
    count: int
    bytes: float
    """Of the largest of operands and result on one device, over all runs."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What one device does in one run of a program."""

    memory_bytes: float
    """Read from and written to the device's memory, without collectives."""
    cycles: float
    """The compiler's own estimate over all instructions but collectives and kernels; 0 where it makes none."""
    product_cycles: float
    """Of these, those of instructions with a matrix product in them."""
    collectives: tuple[Collective, ...]


Program = dict[str, list[Instruction]]


def work(text: str, *, in_loop: bool = False) -> Work:
    """Read an HLO text (``compiled.as_text()``), counting an instruction in a loop as often as the loop turns.

    Args:
        in_loop: of one turn of the program's largest loop alone.
    """
    program, entry = parse(text)
    if in_loop:
        bodies = [one.called("body") for one in program[entry] if one.opcode == "while"]
        entry = max(bodies, key=lambda body: len(program[body]))
    memory = cycles = product_cycles = 0.0
    exchanges: dict[tuple[str, tuple[int, ...], bool], tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for home, instruction, times in executed(program, entry):
        found = _collective(program, home, instruction)
        if found:
            kind, hidden, one, size = found
            key = (kind, _members(one.attributes), hidden)
            count, total = exchanges[key]
            exchanges[key] = (count + times, total + times * size)
        else:
            memory += times * _traffic(program, home, instruction)
            cycles += times * instruction.number("estimated_cycles")
            if _multiplies(program, instruction):
                product_cycles += times * instruction.number("estimated_cycles")
    collectives = (Collective(*key, count, size) for key, (count, size) in sorted(exchanges.items()))
    return Work(memory, cycles, product_cycles, tuple(collectives))


def parse(text: str) -> tuple[Program, str]:
    """The computations of an HLO text, and the name of the one that the program enters."""
    program: Program = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.endswith("{") and " = " not in line and not line.startswith((" ", "HloModule")):
            name = line.removeprefix("ENTRY ").split(" ", 1)[0].lstrip("%")
            entry = name if line.startswith("ENTRY ") else entry
            current = program.setdefault(name, [])
        elif line == "}":
            current = None
        elif current is not None and _BEGINS.match(line):  # Some go on in further lines, with notes of a kernel.
            current.append(_instruction(line))
    return program, entry


def _instruction(line: str) -> Instruction:
    name, rest = line.strip().removeprefix("ROOT ").split(" = ", 1)
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    opcode, _, tail = rest[end:].lstrip().partition("(")
    close = _closing("(" + tail) - 1
    return Instruction(name.lstrip("%"), rest[:end], opcode, tail[:close], tail[close + 1 :])


def _closing(text: str) -> int:
    """Where the parenthesis that ``text`` begins with is closed."""
    depth = 0
    for found in re.finditer(r"[()]", text):
        depth += 1 if found.group() == "(" else -1
        if depth == 0:
            return found.start()
    raise ValueError(f"not closed: {text[:80]}")


def executed(program: Program, computation: str, times: int = 1) -> Iterator[tuple[str, Instruction, int]]:
    """Every instruction that runs by itself, the computation it stands in, and how often it runs.

    What is inside a fusion runs as the fusion. Of a conditional the shortest branch counts: ours are about work that is
    done when it is asked for, which it mostly is not.
    """
    for instruction in program[computation]:
        if instruction.opcode == "while":
            turns = _turns(instruction, program[instruction.called("condition")])
            yield from executed(program, instruction.called("body"), times * turns)
        elif instruction.opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
            names = branches.group(1).replace("%", "").split(", ") if branches else []
            names = names or [instruction.called("true_computation"), instruction.called("false_computation")]
            branches_run = [list(executed(program, name, times)) for name in names]
            yield from min(branches_run, key=len)
        elif instruction.opcode == "call":
            yield from executed(program, instruction.called("to_apply"), times)
        elif instruction.opcode == "async-start":
            yield from executed(program, instruction.called("calls"), times)
        else:
            yield computation, instruction, times


def _turns(loop: Instruction, condition: list[Instruction]) -> int:
    """Of a loop that counts from 0 to a constant, as JAX's scans do; 1 where the end is not a constant."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known.group(1))
    ends = [int(part.arguments) for part in condition if part.opcode == "constant" and part.arguments.isdecimal()]
    return max(ends, default=1)


def _multiplies(program: Program, instruction: Instruction) -> bool:
    if instruction.opcode == "fusion":
        return any(_multiplies(program, part) for part in program[instruction.called("calls")])
    return instruction.opcode in ("convolution", "dot")


def _traffic(program: Program, home: str, instruction: Instruction) -> float:
    """Bytes of the device's memory that an instruction reads and writes."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return 0.0
    if opcode == "copy-start":  # Its shape names both ends.
        return _stored(instruction.shape)
    if opcode in ("slice-start", "dynamic-slice-start"):
        return _payload(instruction.shape[instruction.shape.index(")") :])
    if opcode in _SLICES:
        return _payload(instruction.shape) + _stored(instruction.shape)
    shapes = {part.name: part.shape for part in program[home]}
    given = [shapes.get(name, "") for name in instruction.operands]
    if opcode == "dynamic-update-slice":
        return 2 * _stored(given[1])
    if opcode == "custom-call" and "AllocateBuffer" in instruction.attributes:
        return 0.0
    if opcode == "fusion":
        return _fusion_traffic(program, instruction, given)
    return sum(map(_stored, given)) + _stored(instruction.shape)


def _fusion_traffic(program: Program, fusion: Instruction, given: list[str]) -> float:
    """As :func:`_traffic`; of an array that a fusion only cuts from or writes into, the part alone is moved."""
    inside = program[fusion.called("calls")]
    total = 0.0
    for part in inside:
        if part.opcode != "parameter":
            continue
        shape, uses = given[int(part.arguments)], _readers(program, inside, part.name)
        if uses and all(place == 0 and use.opcode in _SLICES | {"dynamic-update-slice"} for use, place in uses):
            cut = sum(_payload(use.shape) for use, _ in uses if use.opcode in _SLICES)
            total += min(cut, _stored(shape))
        else:
            total += _stored(shape)
    root = inside[-1]
    if root.opcode != "tuple":
        return total + min(_written(program, inside, root.name), _stored(fusion.shape))
    shapes = [found.group() for found in _SHAPE.finditer(fusion.shape)]
    return total + sum(
        min(_written(program, inside, name), _stored(shape)) for name, shape in zip(root.operands, shapes, strict=True)
    )


def _readers(program: Program, home: list[Instruction], name: str) -> list[tuple[Instruction, int]]:
    """What reads ``name`` in a fused computation, behind bitcasts and in fusions within it, and as which operand."""
    found: list[tuple[Instruction, int]] = []
    for part in home:
        for place, operand in enumerate(part.operands):
            if operand != name:
                continue
            if part.opcode == "bitcast":
                found += _readers(program, home, part.name)
            elif part.opcode == "fusion":
                within = program[part.called("calls")]
                same = [one for one in within if one.opcode == "parameter" and int(one.arguments) == place]
                found += _readers(program, within, same[0].name) if same else []
            else:
                found.append((part, place))
    return found


def _written(program: Program, home: list[Instruction], name: str) -> float:
    """Bytes of the part of ``name`` that is new, when it is an array written into; infinite when all of it is."""
    by_name = {part.name: part for part in home}
    part = by_name[name]
    if part.opcode == "bitcast":
        return _written(program, home, part.operands[0])
    if part.opcode == "fusion":
        within = program[part.called("calls")]
        return math.inf if within[-1].opcode == "tuple" else _written(program, within, within[-1].name)
    if part.opcode == "dynamic-update-slice":
        return _payload(by_name[part.operands[1]].shape)
    return math.inf


def _stored(shape: str) -> float:
    """Bytes that an array, or the arrays of a tuple, take of the device's memory: none where the compiler keeps them
    in a faster one, which it marks with S(n)."""
    return sum(
        _size(dtype, sizes) for dtype, sizes, layout in _SHAPE.findall(shape) if not re.search(r"S\([1-9]", layout)
    )


def _payload(shape: str) -> float:
    """Bytes of an array, or of the arrays of a tuple, wherever they are kept."""
    return sum(_size(dtype, sizes) for dtype, sizes, _ in _SHAPE.findall(shape))


def _size(dtype: str, sizes: str) -> float:
    if dtype in ("token", "opaque"):
        return 0.0
    return _BITS[dtype] / 8 * math.prod(int(size) for size in sizes.split(",") if size)


def _collective(program: Program, home: str, instruction: Instruction) -> tuple[str, bool, Instruction, float] | None:
    """The collective that ``instruction`` is or begins: its kind, whether the program computes meanwhile, the
    instruction that has its groups, and its bytes."""
    kind = instruction.opcode.removesuffix("-start")
    if kind in COLLECTIVES:
        # The compiler for GPUs writes some that are waited for as a beginning and an end, too.
        hidden = kind != instruction.opcode and '"is_sync":true' not in instruction.attributes
        return kind, hidden, instruction, _exchanged(program[home], instruction)
    if instruction.opcode != "fusion":
        return None
    inside = program[instruction.called("calls")]
    one = next((part for part in inside if part.opcode in COLLECTIVES), None)
    if one is None:
        return None
    size = _exchanged(inside, one)
    # The compiler for TPU wraps some: one that goes on beside later fusions, which hold it again, and a reduction of
    # which each device keeps a part.
    if "AsyncCollectiveStart" in inside[-1].attributes:
        return one.opcode, True, one, size
    if instruction.called("calls").startswith("all-reduce-scatter"):
        return "reduce-scatter", False, one, size
    return None


def _exchanged(home: list[Instruction], instruction: Instruction) -> float:
    shapes = {part.name: part.shape for part in home}
    given = sum(_payload(shapes.get(name, "")) for name in instruction.operands)
    result = _payload(instruction.shape)
    if instruction.opcode.endswith("-start") and instruction.shape.startswith("("):
        result -= given  # Its shape names both ends.
    return max(given, result)


def _members(attributes: str) -> tuple[int, ...]:
    """The first of the groups of devices, from any of the forms in which they are written."""
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", attributes)
    if pairs:
        sent = [tuple(map(int, pair.split(","))) for pair in re.findall(r"[\d]+,[\d]+", pairs.group(1))]
        return next((pair for pair in sent if pair[0] != pair[1]), sent[0][:1])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    if listed:
        return tuple(map(int, listed.group(1).split(",")))
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", attributes)
    if iota:
        return tuple(_order(iota.group(3)).reshape(int(iota.group(1)), int(iota.group(2)))[0].tolist())
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^{]*)\))? ?\{([^}]*)\}", attributes)
    if mesh:
        axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh.group(1))}
        together = re.findall(r"'(\w+)'", mesh.group(3))
        numbers = np.arange(math.prod(axes.values()))
        if mesh.group(2):
            numbers = _order(mesh.group(2))
        numbers = numbers.reshape(list(axes.values()))
        return tuple(numbers[tuple(slice(None) if name in together else 0 for name in axes)].ravel().tolist())
    raise ValueError(f"groups of devices in a form that is not known: {attributes[:200]}")


def _order(text: str) -> np.ndarray:
    """Devices' numbers, written as ``[16,4]T(1,0)``: counted up in that shape, then transposed."""
    sizes, _, axes = text.partition("T")
    numbers = np.arange(math.prod(map(int, re.findall(r"\d+", sizes)))).reshape([*map(int, re.findall(r"\d+", sizes))])
    return numbers.transpose([*map(int, re.findall(r"\d+", axes))]).ravel() if axes else numbers.ravel()
