"""Every setting, typed and frozen, with what is allowed; read from YAML and checked once.

A settings file is a mapping of the sections of :class:`Config`. ``model`` may also be the name of a preset
(``model: gpt2-medium``) or a mapping with a ``preset`` key whose other keys change that preset.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import Field, ValidationError

from gpt2jax.errors import GPT2JaxError
from gpt2jax.fields import (
    AxisSize,
    Count,
    CountOrZero,
    Finite,
    NotEmpty,
    NotNegative,
    Positive,
    Probability,
    Rate,
    first_error,
    settings,
)
from gpt2jax.presets import preset
from gpt2jax.yaml_file import read_yaml


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
    """Kernel of whole sequences: auto is splash on TPU and cuDNN on GPU where they can, xla elsewhere."""
    remat: Literal["none", "attention", "dots", "full"] = "none"
    """What the backward pass computes again: nothing, attention weights (which splash and cudnn never keep), all but
    matrix products with parameters, or everything in a block."""
    scan_unroll: Count = 1
    """Blocks per turn of the loop over layers; n_layer has no loop: a fifth faster on CPU, but slow to compile."""

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


@settings("mesh")
class MeshConfig:
    """Devices along each mesh axis; -1 takes the rest, for one axis at most."""

    data: AxisSize = -1
    """Copies of the parameters, each with its share of the batch."""
    fsdp: AxisSize = 1
    """Shards of parameters and optimizer state, each with its share of the batch."""
    tensor: AxisSize = 1
    """Shards of heads, MLP and vocabulary."""
    max_whole: Probability = 0.02
    """Largest share of the parameters that may be whole on every device although fsdp or tensor is above 1."""
    cpu_devices: CountOrZero = 0
    """Virtual CPU devices of each process to ask for, to try a mesh without one; 0 uses the devices there are."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> "MeshConfig":
        sizes = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        for axis, size in sizes.items():
            if size == 0:
                raise ValueError(f"{axis}: 0: should be at least 1, or -1 for the rest of the devices")
        if list(sizes.values()).count(-1) > 1:
            raise ValueError(f"data, fsdp, tensor: {tuple(sizes.values())}: only one axis can be -1")
        return self


@settings("distributed")
class DistributedConfig:
    """Several processes as one program. Slurm, Open MPI, the hosts of TPU slices on GKE and the variables that the
    other launchers set (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID) are found without any of these."""

    coordinator: str | None = None
    """host:port of process 0; goes with processes and process_id."""
    processes: Count | None = None
    """How many there are."""
    process_id: CountOrZero | None = None
    """Which of them this one is, from 0 on."""
    auto: bool = False
    """Let jax find the others, as it can on Cloud TPU VMs; when it cannot, this is an error."""
    timeout: Count = 300
    """Seconds to wait for all processes to come."""
    heartbeat_timeout: Count = 30
    """Seconds of silence after which a process counts as lost, and the others end."""


@settings("data")
class DataConfig:
    """The token shards to train on."""

    path: str = "data/pydoc"
    """Folder that `gpt2jax prepare` wrote, or one with nanoGPT's or llm.c's .bin files."""
    tokenizer: Literal["auto", "gpt2", "bytes"] = "auto"
    """Which vocabulary the shards are in; auto reads it from the folder's meta.json."""
    read_threads: CountOrZero = 2
    """Threads that read windows ahead of the training step."""
    read_buffer: Count = 32
    """Windows read ahead."""


@settings("optimizer")
class OptimizerConfig:
    """The optimizer, and the course of its learning rate."""

    name: Literal["adamw", "muon", "lion"] = "adamw"
    """muon: Muon on the kernels of the blocks, AdamW on embeddings, biases and layer norms, at one rate for both
    (Jordan 2024; Liu et al. 2025). lion (Chen et al. 2023) has half of AdamW's state; it wants beta2 0.99, a third to
    a tenth of AdamW's learning rate, and as many times its weight decay."""
    learning_rate: NotNegative = 6e-4
    """Peak, reached at the end of the warm-up."""
    min_learning_rate: NotNegative = 6e-5
    """Where the schedule ends; constant does not look at it."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """After the warm-up: down in a cosine or a line; constant: at the peak; wsd (warm-up, stable, decay): at the peak,
    and down in a line at the end."""
    warmup_steps: CountOrZero = 100
    """Steps of linear warm-up."""
    decay_steps: Count | None = None
    """Step at which the schedule ends, warm-up included; by default training.steps."""
    decay_fraction: Probability = 0.2
    """Of wsd: share of decay_steps that the line down takes; 0 has none."""
    beta1: Rate = 0.9
    """Decay of the mean of gradients."""
    beta2: Rate = 0.95
    """Decay of the mean of their squares; of lion: of the mean of gradients that is kept."""
    epsilon: Positive = 1e-8
    """Added to AdamW's divisor; lion has none."""
    muon_momentum: Rate = 0.95
    """Muon's decay of the mean of gradients."""
    weight_decay: NotNegative = 0.1
    """On matrices and embeddings only, never on biases and layer norms; times the learning rate."""
    clip_norm: NotNegative = 1.0
    """Largest global norm of the gradient; 0 does not clip."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> "OptimizerConfig":
        if self.min_learning_rate > self.learning_rate and self.schedule != "constant":
            raise ValueError(
                f"min_learning_rate: {self.min_learning_rate}: should be at most"
                f" optimizer.learning_rate ({self.learning_rate})"
            )
        if self.decay_steps is not None and self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"decay_steps: {self.decay_steps}: should be above optimizer.warmup_steps ({self.warmup_steps})"
            )
        return self


@settings("training")
class TrainingConfig:
    """The run: its length, its batch, its intervals in steps, and its folder."""

    run_dir: str = "runs/run"
    """The run's folder: settings, metrics, curves, checkpoints, samples, report."""
    init_from: str | None = None
    """Weights to start from instead of fresh ones: a run, a checkpoint, a foreign folder or file, or the name of a
    released model. The sizes under model must be theirs; n_ctx may be smaller."""
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
    """Steps skipped in a row, for a loss or gradient that is not finite or for a spike, after which the run stops."""
    spike_z: NotNegative = 0.0
    """Skip a step whose loss or gradient norm (spike_on) lies this many standard deviations above its running mean,
    over about the last 50 steps; 0 is off."""
    spike_on: Literal["loss", "grad_norm"] = "loss"
    """What spike_z watches."""
    log_interval: Count = 10
    log_norms: bool = False
    """Log the norms of gradient and update of each kind of parameter too (metrics.jsonl and TensorBoard)."""
    eval_interval: Count = 250
    eval_batches: CountOrZero = 20
    """Validation batches, always the same ones, evenly spread; 0 takes the whole validation split."""
    checkpoint_interval: Count = 500
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


@settings("sampling")
class SamplingConfig:
    """How tokens are drawn; the order in which these act stands at the head of gpt2jax/generate/filters.py."""

    max_new_tokens: Count = 256
    """Most tokens to add to each prompt; fewer at <|endoftext|>, at a stop, or at the end of the context."""
    min_new_tokens: CountOrZero = 0
    """Tokens to add before <|endoftext|> and other stop tokens may come; stop strings are not held back."""
    do_sample: bool = True
    """False always takes the most probable token, as temperature 0 does."""
    temperature: Annotated[NotNegative, Field(le=1e6)] = 1.0
    """Divides the logits; 0 always takes the most probable token."""
    top_k: CountOrZero = 0
    """Draw among the k most probable tokens; 0 is off."""
    top_p: Probability = 1.0
    """Draw among the most probable tokens that hold this much probability; 1 is off."""
    top_p_rule: Literal["standard", "openai"] = "standard"
    """standard keeps the token that crosses top_p; openai leaves it out, as OpenAI's released code does."""
    min_p: Probability = 0.0
    """Draw among tokens at least this many times as probable as the most probable one; 0 is off."""
    repetition_penalty: Annotated[Positive, Field(ge=1e-6, le=1e6)] = 1.0
    """Weakens tokens that the prompt or the text has (Keskar et al. 2019): divides positive logits, multiplies
    negative ones; 1 is off, 1.2 a usual value."""
    presence_penalty: Finite = 0.0
    """Taken off the logit of every token that has been drawn; 0 is off."""
    frequency_penalty: Finite = 0.0
    """Taken off the logit of a token for each time it has been drawn; 0 is off."""
    logit_bias: dict[int, Finite] = dataclasses.field(default_factory=dict, hash=False)
    """Added to the logits of these tokens."""
    banned_tokens: tuple[CountOrZero, ...] = ()
    """Tokens that are never drawn."""
    forced_tokens: tuple[CountOrZero, ...] = ()
    """Tokens that every text begins with; they count as new ones."""
    stop: tuple[NotEmpty, ...] = ()
    """Strings that end a text, which does not hold them; they may cross the borders of tokens."""
    stop_tokens: tuple[CountOrZero, ...] = ()
    """Tokens that end a text, which does not hold them, beside <|endoftext|>."""
    ignore_end_of_text: bool = False
    """Never draw <|endoftext|>: write on to max_new_tokens."""
    past_context: Literal["stop", "slide"] = "stop"
    """At the end of the context: stop, or slide: go on with the last half of it as a new prompt."""
    truncate: Literal["none", "left"] = "none"
    """A prompt that fills the context: none refuses it, left drops its beginning."""
    return_full_text: bool = True
    """Whether a text begins with its prompt."""
    num_samples: Count = 1
    """Samples per prompt."""
    best_of: Count = 1
    """Draw this many texts for each sample and return the one that is most probable per token."""
    beams: Count = 1
    """Above 1: search for the most probable texts with this many beams; num_samples are the best of them. As with
    temperature 0, what has to do with drawing is not looked at: temperature, top_k, top_p, min_p, seed."""
    length_penalty: Annotated[Finite, Field(ge=-8.0, le=8.0)] = 1.0
    """Of beam search: log-probabilities are summed and divided by the number of new tokens (forced ones not counted)
    to this power; above 1 favours long texts, 0 sums alone."""
    seed: CountOrZero = 0
    """A sample depends on (seed, sample index, position) alone."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> "SamplingConfig":
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens: {self.min_new_tokens}: should be at most sampling.max_new_tokens"
                f" ({self.max_new_tokens})"
            )
        if len(self.forced_tokens) >= self.max_new_tokens:
            raise ValueError(
                f"forced_tokens: {len(self.forced_tokens)} of them: should be fewer than sampling.max_new_tokens"
                f" ({self.max_new_tokens})"
            )
        if self.beams > 1:
            self._check_beams()
        return self

    def _check_beams(self) -> None:
        allowed: dict[str, Any] = {"best_of": 1, "stop": (), "past_context": "stop"}
        for name, value in allowed.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name}: {getattr(self, name)!r}: goes with drawing, not with beam search"
                    f" (sampling.beams: {self.beams})"
                )
        if self.num_samples > self.beams:
            raise ValueError(f"num_samples: {self.num_samples}: should be at most sampling.beams ({self.beams})")


@settings("")
class Config:
    """All settings of a run."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    distributed: DistributedConfig = dataclasses.field(default_factory=DistributedConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)


def from_mapping(mapping: Any, where: str) -> Config:
    """Check a mapping of sections against :class:`Config`; ``where`` (a file) heads every error line."""
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, dict):
        raise GPT2JaxError(f"{where}: {mapping!r}: should be a mapping of the sections {', '.join(_sections())}")
    mapping = {str(key): value for key, value in mapping.items()}
    try:
        model = mapping.get("model", {})
        model = {"preset": model} if isinstance(model, str) else model
        if isinstance(model, dict) and "preset" in model:
            model = preset(str(model["preset"])) | {key: value for key, value in model.items() if key != "preset"}
        if "model" in mapping:
            mapping["model"] = model
        for name, value in mapping.items():
            if name in _sections() and not isinstance(value, dict):
                raise GPT2JaxError(f"{name}: {value!r}: should be a mapping of keys to values")
        return pydantic.TypeAdapter(Config).validate_python(mapping)
    except ValidationError as error:
        raise GPT2JaxError(f"{where}: {first_error(error, Config, ())}") from None
    except GPT2JaxError as error:
        raise GPT2JaxError(f"{where}: {error}") from None


def _sections() -> list[str]:
    return [field.name for field in dataclasses.fields(Config)]


def load(path: str | Path) -> Config:
    """Read a settings file. Errors name the file, the key's path, the value and what is allowed."""
    return from_mapping(read_yaml(path), str(path))


def to_yaml(config: Config) -> str:
    """The whole of ``config`` as a settings file that :func:`load` reads back to an equal one."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)
