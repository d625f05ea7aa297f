"""Names and sizes of the four released models."""

from gpt2jax.errors import GPT2JaxError, nearest

# Sizes of the four released models (openai/gpt-2, models/*/hparams.json).
PRESETS: dict[str, dict[str, int]] = {
    "gpt2": {"n_embd": 768, "n_head": 12, "n_layer": 12},
    "gpt2-medium": {"n_embd": 1024, "n_head": 16, "n_layer": 24},
    "gpt2-large": {"n_embd": 1280, "n_head": 20, "n_layer": 36},
    "gpt2-xl": {"n_embd": 1600, "n_head": 25, "n_layer": 48},
}
# OpenAI's folder names, then the parameter counts of the paper, which were wrong and still circulate.
ALIASES = {
    "124M": "gpt2",
    "355M": "gpt2-medium",
    "774M": "gpt2-large",
    "1558M": "gpt2-xl",
    "117M": "gpt2",
    "345M": "gpt2-medium",
    "762M": "gpt2-large",
    "1542M": "gpt2-xl",
    "gpt2-small": "gpt2",
}


def preset(name: str) -> dict[str, int]:
    """Sizes of a released model by any of its names, as keywords of :class:`gpt2jax.config.ModelConfig`."""
    sizes = PRESETS.get(ALIASES.get(name, name))
    if sizes is None:
        raise GPT2JaxError(f"model preset: {name!r}: unknown ({nearest(name, [*PRESETS, *ALIASES])})")
    return dict(sizes)
