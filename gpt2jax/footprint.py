"""Energy and carbon of a run, by the method of the questions in GPT-2's model card (Lacoste et al. 2019): hours of
hardware, times its power, times the carbon of the electricity. Without jax: reports of runs start fast."""

from collections.abc import Iterable

from gpt2jax.chips import known_chip


def energy(hours: Iterable[tuple[float, str]], device_watts: float | None) -> tuple[float | None, str]:
    """The energy of devices in kWh, as if each drew its full power all the time; None where a power is not known.

    Args:
        hours: of devices, and their kind, as JAX calls it.
        device_watts: power of one device; None takes it from the table of chips.

    Returns:
        That, and how it was found, or why not.
    """
    kwh, powers = 0.0, {}
    for count, kind in hours:
        chip = known_chip(kind)
        watts = device_watts or (chip.watts if chip else None)
        if watts is None:
            return None, f"unknown: no power is listed for {kind!r}; set training.device_watts"
        kwh += count * watts / 1000
        powers[kind] = watts
    drew = ", ".join(f"{watts:g} W" for watts in dict.fromkeys(powers.values()))
    source = "training.device_watts" if device_watts else "its published board power"
    return kwh, f"if each device drew {drew} ({source}) throughout"
