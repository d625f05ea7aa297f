"""The peer's side of ``python -m benchmarks train``. Needs torch, transformers and safetensors only."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F  # noqa: N812


class Block(nn.Module):
    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.c_attn, self.attn_proj = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
        self.c_fc, self.mlp_proj = nn.Linear(n_embd, 4 * n_embd), nn.Linear(4 * n_embd, n_embd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        heads = (batch, length, self.n_head, width // self.n_head)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.c_attn(self.ln_1(x)).split(width, dim=2))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_proj(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Plain(nn.Module):
    """GPT-2 as one would write it today, with torch's fused attention."""

    def __init__(self, config: dict[str, Any], length: int) -> None:
        super().__init__()
        width = config["n_embd"]
        self.wte, self.wpe = nn.Embedding(config["vocab_size"], width), nn.Embedding(length, width)
        self.h = nn.ModuleList(Block(width, config["n_head"]) for _ in range(config["n_layer"]))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))

    @torch.no_grad()
    def take(self, tensors: dict[str, torch.Tensor]) -> None:
        """The weights of a Hugging Face file, whose kernels are the transposes of torch's."""
        renamed = {"attn.c_attn": "c_attn", "attn.c_proj": "attn_proj", "mlp.c_fc": "c_fc", "mlp.c_proj": "mlp_proj"}
        tensors = {name.removeprefix("transformer."): one for name, one in tensors.items()}
        for name, parameter in self.named_parameters():
            for theirs, mine in renamed.items():
                name = name.replace(f".{mine}.", f".{theirs}.")
            one = tensors[name]
            linear = name.endswith(".weight") and any(theirs in name for theirs in renamed)
            parameter.copy_(one.T if linear else one[: parameter.shape[0]])


class Theirs(nn.Module):
    """transformers' own GPT-2, loss by torch."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.model = transformers.GPT2LMHeadModel.from_pretrained(folder)
        self.model.config.use_cache = False

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = self.model(tokens).logits
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def main() -> None:
    work = json.loads(sys.argv[1])
    transformers.logging.set_verbosity_error()
    folder = Path(work["model"])
    if work["kind"] == "torch":
        model: nn.Module = Plain(json.loads((folder / "config.json").read_text("utf-8")), work["n_ctx"])
        model.take(load_file(folder / "model.safetensors"))
    else:
        model = Theirs(str(folder))
        for module in model.modules():  # Some releases of GPT-2 on the hub ask for dropout; here nobody drops.
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    model.train()
    matrices = [one for one in model.parameters() if one.dim() >= 2]
    vectors = [one for one in model.parameters() if one.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=True)
    windows = torch.from_numpy(np.load(work["windows"])).long()
    loss_of = torch.compile(model) if work["compiled"] else model
    for line in sys.stdin:
        start, used, losses = time.perf_counter(), time.process_time(), []
        for _ in range(int(line)):
            loss = loss_of(windows[:, :-1], windows[:, 1:])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        out = [loss.item() for loss in losses]
        print(json.dumps([time.perf_counter() - start, time.process_time() - used, out]), flush=True)


if __name__ == "__main__":
    main()
