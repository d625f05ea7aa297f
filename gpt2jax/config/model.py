"""What the model is, and how it is computed."""

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from gpt2jax.fields import Count, CountOrZero, Positive, Rate, settings


@settings("model")
class ModelConfig:
    """The model: sizes under the names of OpenAI's hparams.json, and how it is computed."""

    n_vocab: Count = 50257
    """Tokens in the vocabulary, before padding."""
    n_ctx: Count = 1024
    """Context: the longest sequence, in tokens."""
    n_embd: Count = 768
    """Width of the residual stream; the MLP is four times as wide."""
    n_head: Count = 12
    """Attention heads; must divide n_embd."""
    n_layer: Annotated[Count, Field(le=10_000)] = 12
    """Transformer blocks. The limit is far above any model's: it stops a damaged number in a file of weights."""
    dropout: Rate = 0.0
    """Dropout probability on embeddings, attention probabilities and residual branches."""
    layer_norm_epsilon: Positive = 1e-5
    """Added to the variance in layer norm; 1e-5 in every released GPT-2."""
    init: Literal["openai", "gpt2-paper", "human-preferences"] = "gpt2-paper"
    """openai: the released code's, 0.02 everywhere; gpt2-paper: residual projections also times 1/sqrt(2 n_layer);
    human-preferences: OpenAI's later code's, by fan-in, best for narrow models. See gpt2jax.parameters.init."""
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of matrix products; auto is bfloat16 on TPU and GPU, float32 on CPU."""
    attention: Literal["auto", "xla", "splash", "cudnn"] = "auto"
    """Kernel of whole sequences: auto is splash on TPU and cuDNN on GPU where they can, xla elsewhere; on one
    CPU device a head at a time, where there are many scores."""
    remat: Literal["none", "attention", "dots", "full"] = "none"
    """What the backward pass computes again: nothing, attention weights (which splash and cudnn never keep), all but
    matrix products with parameters, or everything in a block. On a CPU it spares nothing where scan_unroll leaves no
    loop."""
    scan_unroll: CountOrZero = 0
    """Blocks per turn of the loop over layers; n_layer has no loop. 0: no loop for training on GPUs that each hold all
    parameters, by cuDNN's attention, and of small models with few scores, in whole batches, on one CPU device; 1
    elsewhere. Of large ones no loop is faster there as well, but takes half as much memory again and more, and longer
    to compile."""

    @property
    def loops(self) -> bool:
        """Whether all blocks are in the turns of a loop."""
        turns, rest = divmod(self.n_layer, max(self.scan_unroll, 1))
        return turns > 1 and not rest

    @pydantic.model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd: {self.n_embd}: should be a multiple of model.n_head ({self.n_head})")
        return self

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def padded_vocab(self) -> int:
        """Rows of the embedding table: ``n_vocab`` rounded up to a multiple of 128, so that any mesh divides it."""
        return -(-self.n_vocab // 128) * 128
