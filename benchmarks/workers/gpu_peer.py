"""The peer's side of `benchmarks/gpu_suite.sh`: a plain GPT-2 with torch.compile, bfloat16 and torch's fused attention,
and transformers' generate. Needs torch; transformers for sampling alone. Prints lines of JSON, as `gpu.py` does.
"""

import argparse
import contextlib
import json
import time
from typing import Any

import torch
from peer_train import Plain  # type: ignore[import-not-found]  # Beside it: scripts of an interpreter without us.
from torch import nn

WIDTHS = {"toy": (32, 2, 2), "gpt2": (768, 12, 12), "gpt2-medium": (1024, 16, 24)}  # Width, heads, layers.
ROUNDS = 5
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def say(**found: Any) -> None:
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    print(json.dumps({"side": "torch", "torch": torch.__version__, "device": name} | found), flush=True)


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def spread(values: list[float]) -> dict[str, float]:
    return {"median": sorted(values)[len(values) // 2], "low": min(values), "high": max(values)}


def train(given: argparse.Namespace) -> None:
    width, heads, layers = WIDTHS[given.size]
    vocab, length = (65, 32) if given.size == "toy" else (50304, 1024)
    for micro in given.micro:
        torch.manual_seed(0)
        sizes = {"n_embd": width, "n_head": heads, "n_layer": layers, "vocab_size": vocab}
        try:
            model = Plain(sizes, length).to(DEVICE)
            for one in model.parameters():
                if one.dim() >= 2:
                    nn.init.normal_(one, std=0.02)
            optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
            loss_of = torch.compile(model) if DEVICE == "cuda" else model
            windows = torch.randint(min(vocab, 50257), (micro, length + 1), device=DEVICE)
            times = []
            for turn in range(1 + ROUNDS):
                wait()
                start = time.perf_counter()
                for _ in range(given.steps):
                    with torch.autocast(DEVICE, torch.bfloat16):
                        loss = loss_of(windows[:, :-1], windows[:, 1:])
                    loss.backward()
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                wait()
                if turn:
                    times.append((time.perf_counter() - start) / given.steps)
        except torch.cuda.OutOfMemoryError:
            say(part="train", size=given.size, micro=micro, problem="out of memory")
            break
        seconds = spread(times)
        tokens = micro * length / seconds["median"]
        say(part="train", size=given.size, micro=micro, seconds=seconds, tokens=tokens, loss=loss.item())
        del model, optimizer, loss_of, loss


def sample(given: argparse.Namespace) -> None:
    import transformers

    width, heads, layers = WIDTHS[given.size]
    vocab, length = (65, 32) if given.size == "toy" else (50257, 1024)
    new = min(64, length // 2)
    config = transformers.GPT2Config(
        n_embd=width, n_head=heads, n_layer=layers, vocab_size=vocab, n_positions=length, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).to(DEVICE, torch.bfloat16).eval()
    for batch in given.batch:
        tokens = torch.randint(vocab, (batch, min(32, length - new)), device=DEVICE)
        times = []
        for turn in range(1 + ROUNDS):
            wait()
            start = time.perf_counter()
            with torch.inference_mode(), contextlib.redirect_stdout(None):
                model.generate(
                    tokens,
                    attention_mask=torch.ones_like(tokens),
                    do_sample=False,
                    max_new_tokens=new,
                    min_new_tokens=new,
                    pad_token_id=0,
                    eos_token_id=None,
                )
            wait()
            if turn:
                times.append(time.perf_counter() - start)
        say(part="sample", size=given.size, batch=batch, new=new, seconds=spread(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("train", "sample"))
    parser.add_argument("--size", choices=WIDTHS, default="gpt2")
    parser.add_argument("--micro", nargs="+", type=int, default=[8, 16, 32])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 64, 256])
    given = parser.parse_args()
    {"train": train, "sample": sample}[given.part](given)


if __name__ == "__main__":
    main()
