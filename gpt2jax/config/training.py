"""A run."""

from typing import Literal

import pydantic

from gpt2jax.fields import Count, CountOrZero, NotEmpty, NotNegative, Positive, settings


@settings("training")
class TrainingConfig:
    """The run: its length, its batch, its intervals in steps, and its folder."""

    run_dir: str = "runs/run"
    """The run's folder: settings, metrics, curves, checkpoints, samples, report."""
    init_from: str | None = None
    """Weights to start from instead of fresh ones: a run, a checkpoint, a foreign folder or file, or the name of a
    released model. The sizes under model must be theirs, n_ctx may be smaller; a settings file that names none gets
    them from the weights."""
    steps: Count = 1000
    """Optimizer steps in all."""
    batch_size: Count = 8
    """Sequences per step, over all devices and micro-batches."""
    micro_batches: Count = 1
    """Parts that a step's batch is computed in, one after the other (gradient accumulation)."""
    ramp: tuple[Count, ...] = ()
    """Steps at which the batch doubles (batch-size ramp), up to batch_size: with two of them the run starts with a
    quarter of the micro_batches."""
    sequence_sharding: bool = False
    """Between blocks, cut the residual stream's positions over mesh.tensor too (Korthikanti et al. 2022): activations
    take less memory, for exchanges of the same size but more of them."""
    seed: CountOrZero = 0
    """Seed of initialisation, data order and dropout."""
    loss_chunk: Count = 128
    """Positions whose logits exist at once in the loss."""
    freeze: tuple[NotEmpty, ...] = ()
    """Parameters that stay as they are, by their paths in gpt2jax.parameters.TABLE, * for any part of one: wte is the
    token table (the output's too), h/attn/* all attention, h/*/kernel all kernels."""
    freeze_layers: CountOrZero = 0
    """Lowest blocks that stay as they are."""
    max_skipped: Count = 10
    """Steps skipped in a row, for a loss or gradient that is not finite or for a spike, after which the run stops;
    looked at every log_interval."""
    spike_z: NotNegative = 0.0
    """Skip a step whose loss or gradient norm (spike_on) lies this many standard deviations above its running mean,
    over about the last 50 steps; 0 is off."""
    spike_on: Literal["loss", "grad_norm"] = "loss"
    """What spike_z watches."""
    log_interval: Count = 10
    """Steps between lines of the log, which the device is waited for."""
    log_norms: bool = False
    """Log the norms of gradient and update of each kind of parameter too (metrics.jsonl and TensorBoard)."""
    eval_interval: Count = 250
    """Steps between validations."""
    eval_batches: CountOrZero = 20
    """Validation batches, always the same ones, evenly spread; 0 takes the whole validation split."""
    checkpoint_interval: Count = 500
    """Steps between checkpoints; the last step always has one."""
    patience: CountOrZero = 0
    """Validations (each eval_interval) without a new best after which the run ends; each new best is then saved, and
    samples and exports are those of the best. 0 never ends early."""
    export: tuple[Literal["orbax", "huggingface", "openai", "nanogpt", "llmc"], ...] = ()
    """Forms to write the weights in when the run has ended, into RUN/export."""
    keep_last: Count = 2
    """Newest checkpoints to keep."""
    keep_best: CountOrZero = 1
    """Checkpoints to keep for the lowest validation losses, beside the newest ones."""
    keep_every: CountOrZero = 0
    """Keep every checkpoint whose step is a multiple of this, for good; 0 keeps none for its step. A multiple of
    checkpoint_interval."""
    device_watts: Positive | None = None
    """Power of one device for the energy estimate; by default from a table of device kinds, when it is listed there."""
    grid_gco2_per_kwh: NotNegative = 475.0
    """Carbon intensity of the electricity, in grams of CO2 per kWh (475: the world's average, IEA 2019)."""
    cloud_provider: str = "not stated"
    """Whose machines they are, for the report."""
    compute_region: str = "not stated"
    """Where they stand, for the report."""
    sample_interval: CountOrZero = 0
    """Steps between samples of what the model writes by then (samples.txt, as the section sampling says; where the data
    has prompts, num_samples of those that were held out are answered); 0 writes them after the last step alone. Of
    several processes the first one writes, on one device, which must have room for all parameters in the compute
    dtype."""
    wandb: NotEmpty | None = None
    """Project of Weights & Biases to log to as well; needs the extra wandb."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> "TrainingConfig":
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"batch_size: {self.batch_size}: should be a multiple of training.micro_batches ({self.micro_batches})"
            )
        if self.keep_every % self.checkpoint_interval:
            raise ValueError(
                f"keep_every: {self.keep_every}: should be a multiple of training.checkpoint_interval"
                f" ({self.checkpoint_interval})"
            )
        if self.patience and not self.keep_best:
            raise ValueError(f"patience: {self.patience}: should be 0 where training.keep_best is, or no best is kept")
        if list(self.ramp) != sorted(set(self.ramp)):
            raise ValueError(f"ramp: {self.ramp}: should rise from step to step")
        if self.micro_batches % 2 ** len(self.ramp):
            raise ValueError(
                f"micro_batches: {self.micro_batches}: should be a multiple of {2 ** len(self.ramp)}, to be doubled at"
                f" each step of training.ramp {self.ramp}"
            )
        return self

    def micro_batches_at(self, step: int) -> int:
        """Micro-batches of the step that follows ``step`` others."""
        return self.micro_batches >> sum(step < doubling for doubling in self.ramp)

    def micro_batches_before(self, step: int) -> int:
        """Micro-batches of the first ``step`` steps together: where the next one begins in the data."""
        ends = [*(doubling for doubling in self.ramp if doubling < step), step]
        starts = [0, *ends[:-1]]
        return sum((end - start) * self.micro_batches_at(start) for start, end in zip(starts, ends, strict=True))

    def positions_before(self, step: int, n_ctx: int) -> int:
        """Targets of the first ``step`` steps, padding included, at ``n_ctx`` of them a sequence."""
        return self.micro_batches_before(step) * (self.batch_size // self.micro_batches) * n_ctx
