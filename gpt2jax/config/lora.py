"""Fine-tuning by a few parameters beside the model's own."""

from gpt2jax.fields import CountOrZero, NotEmpty, Positive, settings


@settings("lora")
class LoraConfig:
    """Low-rank adapters (LoRA, Hu et al. 2021): kernels stay as they are, and what is learned is A B beside them."""

    rank: CountOrZero = 0
    """Rank of A B; 0 trains the model's own parameters and has no adapters."""
    alpha: Positive = 16.0
    """A B counts alpha / rank times."""
    targets: tuple[NotEmpty, ...] = ("h/*/kernel",)
    """Kernels that get adapters, by their paths in gpt2jax.parameters.TABLE, * for any part of one. By default all in
    the blocks: with fewer, LoRA fell short of full fine-tuning at any rank (Dettmers et al. 2023, section 4). Attention
    alone: h/attn/*/kernel. Query, key and value share their A, as one kernel does in Hugging Face's PEFT."""
