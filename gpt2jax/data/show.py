"""What :mod:`gpt2jax.data.look` counted, as tables and a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpt2jax.data.look import Look
from gpt2jax.pictures import new_figure, save
from gpt2jax.tables import Lines


def table(looks: Sequence[Look]) -> Lines:
    """A line for each split."""
    names = [
        "split",
        "tokens",
        "documents",
        "mean length",
        "median",
        "longest",
        "bytes/token",
        "duplicates",
        "tokens used",
    ]
    lines = [names]
    for one in looks:
        lines.append([
            one.name, f"{one.tokens:,}", f"{len(one.ends_N):,}", f"{one.lengths_N.mean():,.1f}",
            f"{np.median(one.lengths_N):,.0f}", f"{one.lengths_N.max():,}", f"{one.bytes_per_token:.3f}",
            f"{one.repeated:,}", f"{np.count_nonzero(one.counts_V):,} of {one.encoding.n_vocab:,}",
        ])  # fmt: skip
    return lines


def leaked(looks: Sequence[Look]) -> int | None:
    """Validation documents that are in training too; None where there is but one split."""
    by_name = {one.name: one for one in looks}
    if len(by_name) < 2:
        return None
    return int(np.isin(by_name["validation"].hashes_N, by_name["train"].hashes_N).sum())


def frequent(one: Look, count: int = 10) -> Lines:
    """The most frequent tokens."""
    lines = [["token", "text", "times", "share"]]
    for token in np.argsort(-one.counts_V, kind="stable")[:count].tolist():
        text = "<|endoftext|>" if token == one.mark else one.encoding.decode([token])
        times = int(one.counts_V[token])
        lines.append([str(token), repr(text), f"{times:,}", f"{100 * times / one.tokens:.2f} %"])
    return lines


def draw(looks: Sequence[Look], path: Path) -> None:
    """Lengths of documents, frequencies of tokens, bytes per token, copies of documents; a colour a split."""
    figure = new_figure(11, 7)
    lengths, ranks, sizes, copies = figure.subplots(2, 2).flat
    longest = max(int(one.lengths_N.max()) for one in looks)
    edges = np.unique(np.geomspace(1, max(longest, 2) + 1, 50).astype(int))
    for number, one in enumerate(looks):
        color, share = f"C{number}", np.full(len(one.lengths_N), 1 / len(one.lengths_N))
        lengths.hist(np.maximum(one.lengths_N, 1), edges, weights=share, color=color, alpha=0.5, label=one.name)
        used = np.sort(one.counts_V[one.counts_V > 0])[::-1]
        ranks.plot(np.arange(1, len(used) + 1), used / used.sum(), color=color)
        rate = one.bytes_N / np.maximum(one.lengths_N, 1)
        sizes.hist(rate, np.linspace(0, max(float(rate.max()), 1.0), 50), weights=share, color=color, alpha=0.5)
        times = np.bincount(np.unique(one.hashes_N, return_counts=True)[1])
        there = np.flatnonzero(times)
        copies.plot(there, times[there], "o", color=color, ms=4)
    lengths.set(xscale="log", xlabel="tokens of a document", ylabel="share of documents")
    ranks.set(xscale="log", yscale="log", xlabel="rank of a token", ylabel="share of all tokens")
    sizes.set(xlabel="bytes per token, of a document", ylabel="share of documents")
    copies.set(xscale="log", yscale="log", xlabel="copies of a document", ylabel="documents with so many")
    lengths.legend()
    for axes in (lengths, ranks, sizes, copies):
        axes.grid(alpha=0.3)
    save(figure, path)
