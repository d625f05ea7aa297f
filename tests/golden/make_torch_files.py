"""Makes the weight files of torch, transformers and nanoGPT in tests/golden/weights, with the programs themselves.

    python -m venv v && v/bin/pip install torch==2.13.0 transformers==5.23.0
    v/bin/python tests/golden/make_torch_files.py

One model of 2 layers with random weights, in every form; expected.npz holds what transformers computes from it.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

OUT = Path(__file__).parent / "weights"
SIZES = {"vocab_size": 20, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}


def make() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(**SIZES, bos_token_id=19, eos_token_id=19, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():  # Biases and norms too, so that none of them can be lost unseen.
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def with_buffers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What older versions stored beside the weights."""
    mask = torch.tril(torch.ones(8, 8, dtype=torch.uint8)).view(1, 1, 8, 8)
    for layer in range(2):
        state[f"transformer.h.{layer}.attn.bias"] = mask.clone()
        state[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return state


def bare(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("transformer."): value for name, value in state.items() if name != "lm_head.weight"}


def nanogpt(state: dict[str, torch.Tensor], bias: bool) -> dict[str, torch.Tensor]:
    """Names and layouts of nanoGPT's model.py, where Conv1D is a Linear."""
    kernels = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    return {
        f"_orig_mod.{name}": value.t().contiguous() if name.endswith(kernels) else value
        for name, value in state.items()
        if bias or not name.endswith(".bias")
    }


def save_nanogpt(state: dict[str, torch.Tensor], bias: bool, folder: Path) -> None:
    state = nanogpt(state, bias)
    trained = {name: torch.nn.Parameter(value.clone()) for name, value in state.items() if name.endswith("wpe.weight")}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3)
    sum(parameter.sum() for parameter in trained.values()).backward()
    optimizer.step()
    checkpoint = {
        "model": state,
        "optimizer": optimizer.state_dict(),
        "model_args": {
            "n_layer": 2,
            "n_head": 2,
            "n_embd": 8,
            "block_size": 8,
            "bias": bias,
            "vocab_size": 20,
            "dropout": 0.0,
        },
        "iter_num": 7,
        "best_val_loss": torch.tensor(2.5),
        "config": {"out_dir": "out", "learning_rate": 1e-3, "compile": True, "wandb_log": False},
    }
    folder.mkdir()
    torch.save(checkpoint, folder / "ckpt.pt")


def main() -> None:
    for folder in ("safetensors", "sharded", "zip", "legacy", "sharded_bin", "bfloat16", "nanogpt", "nanogpt_no_bias"):
        shutil.rmtree(OUT / folder, ignore_errors=True)
    model = make()
    tokens = torch.arange(16).view(2, 8) % 20
    np.savez(OUT / "expected.npz", tokens=tokens.numpy(), logits=model(tokens).logits.detach().numpy())
    model.save_pretrained(OUT / "safetensors")
    model.save_pretrained(OUT / "sharded", max_shard_size="4KB")
    state = model.state_dict()

    for name in ("zip", "legacy", "sharded_bin"):
        (OUT / name).mkdir()
        shutil.copy(OUT / "safetensors" / "config.json", OUT / name)
    torch.save(with_buffers(dict(state)), OUT / "zip" / "pytorch_model.bin")
    torch.save(bare(state), OUT / "legacy" / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    parts: dict[str, dict[str, torch.Tensor]] = {f"pytorch_model-0000{part}-of-00002.bin": {} for part in (1, 2)}
    for number, (name, value) in enumerate(bare(state).items()):
        list(parts.values())[number % 2][name] = value.clone()
    for name, part in parts.items():
        torch.save(part, OUT / "sharded_bin" / name)
    places = {key: name for name, part in parts.items() for key in part}
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (OUT / "sharded_bin" / "pytorch_model.bin.index.json").write_text(json.dumps(index))

    model.to(torch.bfloat16).save_pretrained(OUT / "bfloat16")
    save_nanogpt(state, True, OUT / "nanogpt")
    save_nanogpt(state, False, OUT / "nanogpt_no_bias")
    for extra in OUT.glob("*/generation_config.json"):
        extra.unlink()


if __name__ == "__main__":
    main()
