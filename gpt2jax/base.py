"""The weights that a run's adapters belong to: saved once, in the run's folder ``base``, and not in each checkpoint."""

from pathlib import Path

import tiktoken

from gpt2jax import checkpoint, lora
from gpt2jax.checkpoints import Checkpoints
from gpt2jax.config import LoraConfig, ModelConfig
from gpt2jax.distributed import is_primary, wait_for_all
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import remove_folder
from gpt2jax.parameters import Params
from gpt2jax.record import Adapters, Meta, fingerprint


def save_base(
    run_dir: Path, params: Params, model: ModelConfig, encoding: tiktoken.Encoding, config: LoraConfig
) -> Adapters:
    """Save ``params`` for adapters to come; of several processes every one must call this.

    Raises:
        GPT2JaxError: they cannot be written.
    """
    folder = run_dir / "base"
    if is_primary():
        remove_folder(folder)  # Of a run that ended before its first checkpoint.
    wait_for_all()
    with Checkpoints(folder, keep_last=1) as saved:
        saved.save({"params": lora.without_adapters(params)}, Meta(0, model, encoding))
        saved.wait()
        return Adapters(config, fingerprint(saved.read_meta(0)))


def find_base(where: Path, adapters: Adapters) -> Path:
    """The weights that the adapters in the checkpoint ``where`` (RUN/checkpoints/STEP) belong to.

    Raises:
        GPT2JaxError: they are not there, or others are.
    """
    folder = where.parent.parent / "base" / "0"
    if not folder.is_dir():
        raise GPT2JaxError(
            f"{where}: holds adapters alone (LoRA): the weights that they belong to should be in {folder.parent}"
        )
    if fingerprint(checkpoint.read_meta(folder)) != adapters.base:
        raise GPT2JaxError(f"{folder}: other weights than those that the adapters in {where} belong to")
    return folder
