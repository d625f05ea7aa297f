"""`gpt2jax info`."""

import dataclasses

from gpt2jax.cli.parse import parse, start


def run(args: list[str]) -> int:
    parse(_NoArgs, args, "info", "Print versions, devices and cache folders.\n\nexample:\n  gpt2jax info")
    start()
    from gpt2jax import runtime

    found = runtime.describe()
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:<{width}}  {value}")
    return 0


@dataclasses.dataclass(frozen=True)
class _NoArgs:
    pass
