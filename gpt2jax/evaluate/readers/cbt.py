"""Children's Book Test: twenty sentences, a twenty-first with a gap, ten words that could fill it."""

import dataclasses

from gpt2jax.evaluate.readers.text import decode, fail, numbered

GAP = "XXXXX"
CONTEXT_SENTENCES = 20
CANDIDATES = 10


@dataclasses.dataclass(frozen=True)
class CbtItem:
    """A question. Its text is tokenised as the file has it: ``` `` '' -LRB- n't ```."""

    line: int
    """The query's, in the file, from 1."""
    context: tuple[str, ...]
    """Twenty sentences."""
    query: str
    """A sentence in which :data:`GAP` stands for the missing word."""
    candidates: tuple[str, ...]
    """Ten words; fewer where the file has empty ones, which can't be the answer."""
    answer: int
    """The place of the right one among the candidates."""

    def fill(self, candidate: str) -> tuple[str, str, str]:
        """The query before the gap, the candidate, and the rest, in which further gaps are filled too."""
        before, _, rest = self.query.partition(GAP)
        return before, candidate, rest.replace(GAP, candidate)


def read_cbt(data: bytes, where: str) -> list[CbtItem]:
    """The questions of a ``cbtest_*.txt``: blocks of 21 numbered lines.

    Blank lines count for nothing: the numbers say where a block ends.

    Raises:
        GPT2JaxError: empty, not UTF-8, a block that is not such lines, a query without a gap or candidates, or an
            answer that is not among them.
    """
    items: list[CbtItem] = []
    block: list[str] = []
    last = 0
    for number, line in numbered(decode(data, where)):
        last = number
        if not line.strip():
            continue
        count, _, text = line.strip("\n").partition(" ")
        if count != str(len(block) + 1):
            fail(where, number, f"begins with {count!r}: should be number {len(block) + 1} of its block")
        if len(block) < CONTEXT_SENTENCES:
            if not text.strip():
                fail(where, number, "no sentence after its number")
            block.append(text.strip())
        else:
            items.append(_question(text, tuple(block), where, number))
            block = []
    if block:
        fail(where, last, f"the last block ends after {len(block)} lines: should have {CONTEXT_SENTENCES + 1}")
    return items


def _question(text: str, context: tuple[str, ...], where: str, number: int) -> CbtItem:
    parts = text.split("\t")
    if len(parts) != 4 or parts[2].strip():
        fail(where, number, f"{len(parts) - 1} tabs: should be query, tab, answer, two tabs, candidates")
    query, answer, words = parts[0].strip(), parts[1].strip(), parts[3].strip().split("|")
    if GAP not in query:
        fail(where, number, f"the query has no gap: should hold {GAP}")
    candidates = tuple(word.strip() for word in words if word.strip())
    if not answer:
        fail(where, number, "the answer is empty")
    if len(candidates) < 2 or len(words) != CANDIDATES:
        fail(where, number, f"{len(candidates)} candidates of {len(words)}: should be {CANDIDATES} with | between them")
    if answer not in candidates:
        fail(where, number, f"answer {answer!r}: not among the candidates {', '.join(candidates)}")
    return CbtItem(number, context, query, candidates, candidates.index(answer))
