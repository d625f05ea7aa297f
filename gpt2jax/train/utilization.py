"""Model FLOP utilisation: the model's share of what the devices could compute."""

from jax.sharding import Mesh

from gpt2jax import lora, parameters
from gpt2jax.chips import known_chip
from gpt2jax.config import Config


def train_flops_per_token(config: Config) -> float:
    """Floating point operations of one training token (:func:`gpt2jax.parameters.train_flops_per_token`): with adapters
    4 N + 6 N of adapters in the place of 6 N, as weights that stay as they are have no gradient."""
    model = config.model
    flops = parameters.train_flops_per_token(model, model.n_ctx)
    if config.lora.rank:
        held = parameters.count(model) - model.n_ctx * model.n_embd
        flops += 6.0 * lora.count(config.lora, model) - 2.0 * held
    return flops


class Utilization:
    """MFU on one mesh (Chowdhery et al. 2022, appendix B), where a peak is listed for its devices."""

    def __init__(self, config: Config, mesh: Mesh) -> None:
        self.kind, self.devices = mesh.devices.flat[0].device_kind, mesh.devices.size
        self.flops_per_token = train_flops_per_token(config)
        terms = "4 N + 6 N of adapters" if config.lora.rank else "6 N"
        self.flops_convention = (
            f"{terms} + 12 n_layer n_embd n_ctx per token, N without positions, attention counted as not causal"
        )
        chip = known_chip(self.kind)
        self.peak_tflops = chip.peak_tflops if chip else None

    def of(self, positions_per_second: float) -> float | None:
        """The share, 0 to 1, that training at this rate is; None where it is not known."""
        if self.peak_tflops is None or not positions_per_second:
            return None
        return positions_per_second * self.flops_per_token / (self.devices * self.peak_tflops * 1e12)

    def convention(self) -> str:
        if self.peak_tflops is None:
            return f"unknown: no peak is listed for {self.kind!r}"
        return (
            f"FLOP of the model ({self.flops_convention}), as a share of {self.peak_tflops:g} TFLOP/s per device: its"
            " dense peak in 16 bits"
        )

    def line(self) -> str:
        return f"MFU: {self.convention()}"
