"""Every task against the same number computed the naive way: from its file, one token after the other, in float64."""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from gpt2jax import parameters, tokenizer
from gpt2jax.config import EvaluationConfig, ModelConfig
from gpt2jax.data.prepare import prepare
from gpt2jax.evaluate.catalog import dataset
from gpt2jax.evaluate.detokenize.cbt import CBT
from gpt2jax.evaluate.detokenize.pair import Pair
from gpt2jax.evaluate.figures import Figure
from gpt2jax.evaluate.find import Found
from gpt2jax.evaluate.job import Setting
from gpt2jax.evaluate.run import Run, gather
from gpt2jax.evaluate.stop_words import stop_tokens, stop_words
from gpt2jax.evaluate.tasks import cbt
from gpt2jax.weights.convert import convert
from gpt2jax.weights.weights import HeldWeights, Origin
from tests.evaluate import naive, samples

CONFIG = ModelConfig(n_vocab=50257, n_ctx=80, n_embd=16, n_head=2, n_layer=2)
END = 50256
STRIDE = 24
RELATIVE = 1e-4


class Naive:
    """A model, its file, and what the tests compute with it."""

    def __init__(self, folder: Path) -> None:
        params = parameters.init(jax.random.key(0), CONFIG)
        # As sure of itself as a trained one. Mostly a stop word is the likeliest of all, and then the end of a passage.
        params = jax.tree.map(lambda leaf: leaf * 12, params) | {"ln_f": params["ln_f"]}
        towards = np.full(CONFIG.n_embd, CONFIG.n_embd**-0.5, np.float32)
        for word, length in ((" the", 5.0), (" bridge", 4.5)):
            params["wte"] = params["wte"].at[tokenizer.gpt2().encode_single_token(word)].set(length * towards)
        params["ln_f"] = params["ln_f"] | {"bias": params["ln_f"]["bias"] + 2 * towards}
        self.folder = folder / "model"
        self.params = naive._float64(params)
        origin = Origin("held", "here", CONFIG, tokenizer.gpt2())
        convert(HeldWeights(origin, params), self.folder, "huggingface", progress=False)

    def sum(self, tokens: Sequence[int], first: int) -> float:
        """Log-probability of ``tokens[first:]``; of a longer row than fits its beginning is dropped."""
        dropped = max(0, len(tokens) - CONFIG.n_ctx - 1)
        return float(naive.log_probs(self.params, CONFIG, tokens[dropped:], first - dropped).sum())

    def stream(self, text: str, stride: int = STRIDE, prefix: bool = True) -> float:
        tokens = [END] * prefix + encode(text)
        found = naive.strided_log_probs(self.params, CONFIG, tokens, CONFIG.n_ctx, stride)
        return math.fsum(found.values())


def encode(text: str) -> list[int]:
    return tokenizer.gpt2().encode_ordinary(text)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Naive:
    return Naive(tmp_path_factory.mktemp("model"))


Measure = Callable[..., dict[str, Figure]]


@pytest.fixture
def measure(model: Naive, tmp_path: Path) -> Measure:
    """Evaluate on files given by name; the figures by variant."""

    def run(task: str, files: dict[str, bytes], **options: Any) -> dict[str, Figure]:
        for name, content in files.items():
            (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / name).write_bytes(content)
        config = EvaluationConfig(
            tasks=(task,),
            data=str(tmp_path / "data"),
            output=str(tmp_path / "out"),
            stride=STRIDE,
            allow_changed_data=True,
            batch_tokens=512,
            **{"variants": "all"} | options,
        )
        made = Run(str(model.folder), config, None, gather(config)).figures(tmp_path / "scored")
        return {figure.variant: figure for figures in made for figure in figures}

    return run


def close(figure: Figure, wanted: float) -> bool:
    return figure.value == pytest.approx(wanted, rel=RELATIVE)


def best(scores: Iterable[float]) -> int:
    """Which is the highest, by more than rounding."""
    found = np.array(list(scores))
    second, first = np.sort(found)[-2:]
    assert first - second > 10 * RELATIVE * abs(first)
    return int(np.argmax(found))


def told_apart(
    picks: dict[str, list[int]], choices: int, *pairs: tuple[str, ...]
) -> tuple[tuple[int, ...], dict[str, float]]:
    """Answers, of so many choices for each question and not all the same, by which no rule that picks them is right
    always or never, and those of each of ``pairs``, or else all of them, differ in how often; and how often each is,
    in percent."""
    for answers in itertools.product(range(choices), repeat=len(next(iter(picks.values())))):
        shares = {rule: 100 * float(np.mean(np.equal(picked, answers))) for rule, picked in picks.items()}
        differ = all(shares[one] != shares[other] for one, other in pairs or itertools.combinations(picks, 2))
        if differ and len(set(answers)) > 1 and all(0 < share < 100 for share in shares.values()):
            return answers, shares
    raise AssertionError(f"no answers tell these rules apart: {picks}")


class TestLambada:
    TEXTS = (*samples.LAMBADA_TEXTS, "They walked down to the river and then over the bridge", "He went to see the the")
    FILE = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()

    def expected(self, model: Naive, prepared: Callable[[str], str]) -> tuple[float, list[Any], list[Any]]:
        nll, plain, filtered = 0.0, [], []
        banned = stop_tokens(tokenizer.gpt2())
        for text in self.TEXTS:
            context, word = prepared(text).rsplit(" ", 1)
            before, after = encode(context), encode(f" {word}")
            nll -= model.sum(before + after, len(before))
            rest = (model.params, CONFIG, before + after, len(before))
            plain.append(list(naive.greedy(*rest)))
            filtered.append(list(naive.greedy(*rest, banned)))
        return nll, plain, filtered

    def test_every_form(self, model: Naive, measure: Measure) -> None:
        found = measure("lambada", {"lambada_test.jsonl": self.FILE})
        forms: dict[str, Callable[[str], str]] = {
            "openai": lambda text: "\n" + text.replace("“", '"').replace("”", '"').strip(),
            "as-is": lambda text: text,
        }
        for form, prepared in forms.items():
            nll, plain, filtered = self.expected(model, prepared)
            assert close(found[f"{form}, perplexity"], math.exp(nll / len(self.TEXTS)))
            count = sum(map(len, plain))
            assert found[f"{form}, perplexity"].details["perplexity per token"] == pytest.approx(math.exp(nll / count))
            assert found[f"{form}, whole word"].value == 100 * np.mean([all(one) for one in plain])
            wanted = 100 * np.mean([all(one) for one in filtered])
            assert found[f"{form}, whole word, stop-word filter"].value == wanted
            assert found[f"{form}, last token"].value == 100 * np.mean([one[-1] for one in plain])
            # The twins: another form has another perplexity, and the filter makes a difference.
            assert wanted != found[f"{form}, whole word"].value
        assert not close(found["as-is, perplexity"], found["openai, perplexity"].value)

    def test_the_filter_has_the_stop_words_of_one_token(self) -> None:
        assert len(stop_words()) == 326
        words = {tokenizer.gpt2().decode([token]) for token in stop_tokens(tokenizer.gpt2())}
        assert {" the", " of", " nevertheless"} <= words
        assert " bridge" not in words
        assert all(word.startswith(" ") for word in words)


class TestCbt:
    FILE = "cbtest_CN_valid_2000ex.txt"
    CONTEXT = "".join(f'"This is sentence {number}," she said.\n' for number in range(1, 21))

    def test_every_rule(self, model: Naive, measure: Measure) -> None:
        words = ("apple", "hippopotamus", "door", "Rumpelstiltskin", "dragonfly", "river")
        questions = [
            # The query, its words, the sentence, and what all of its rows begin with.
            ("The XXXXX ran .", words, "The {} ran.", "The"),
            ("Some XXXXX flew in .", ("apple", "garden", "door", "bird"), "Some {} flew in.", "Some"),
            ("A XXXXX or no XXXXX .", words, "A {} or no {}.", "A"),
            ("She can XXXXX fly away .", ("not", "never", "be", "surely"), "She can {} fly away.", "She"),
        ]
        picks: dict[str, list[int]] = {"rest of the sentence": [], "choice alone": [], "per token": []}
        for _, candidates, sentence, prefix in questions:
            filled = [sentence.replace("{}", word).replace("can not", "cannot") for word in candidates]
            rows = [encode(self.CONTEXT + text) for text in filled]
            first = len(encode(self.CONTEXT + prefix))
            dropped = max(map(len, rows)) - CONFIG.n_ctx - 1
            scores = [naive.log_probs(model.params, CONFIG, row[dropped:], first - dropped) for row in rows]
            ends = [text.index(word) + len(word) for text, word in zip(filled, candidates, strict=True)]
            own = [len(encode(self.CONTEXT + text[:end])) - first for text, end in zip(filled, ends, strict=True)]
            picks["rest of the sentence"].append(best(each.sum() for each in scores))
            picks["choice alone"].append(best(each[:n].sum() for each, n in zip(scores, own, strict=True)))
            picks["per token"].append(best(each.mean() for each in scores))
        answers, shares = told_apart(picks, 4)
        text = "".join(
            samples.cbt_block(query, candidates[answer], candidates)
            for (query, candidates, *_), answer in zip(questions, answers, strict=True)
        )
        found = measure("cbt-cn", {self.FILE: text.encode()})
        for name, share in shares.items():
            assert found[name].value == share
            assert found[name].units == 4
            assert "20 of 20 contexts lost their beginning" in found[name].notes
            assert (
                "100.00 % of the words are in different sentences that the de-tokenizer gives back exactly; "
                "of 40 different sentences 0 were kept as they are"
            ) in found[name].notes

    def rows(self, query: str, candidates: tuple[str, ...], window: int) -> list[tuple[str, str]]:
        """What comes before the scored tokens of each candidate's row, and these."""
        data = samples.cbt_block(query, candidates[0], candidates).encode()
        found = Found(dataset("cbt-cn"), Path("cbt"), None, data, "", verified=True)
        setting = Setting(EvaluationConfig(tasks=("cbt-cn",)), tokenizer.gpt2(), window, END)
        [job] = cbt.cbt(found, setting)
        decode = tokenizer.gpt2().decode
        return [(decode(list(row.tokens[: row.first])), decode(list(row.tokens[row.first :]))) for row in job.rows()]

    @pytest.mark.parametrize(
        ("query", "scored", "prefix"),
        [
            ("The XXXXX ran .", {"fox": " fox ran.", "Rumpelstiltskin": " Rumpelstiltskin ran."}, "The"),
            # Joined to the word before, with which it is one token.
            ("She can XXXXX go .", {"never": " can never go.", "not": " cannot go."}, "She"),
            ("The king XXXXX it .", {"'s": "'s it.", "saw": " saw it."}, "The king"),
            # A clitic that nothing can be joined to, beside which the quote stays as the file spells it.
            ("`` XXXXX so , '' he said .", {"It": '"It so," he said.', "'s": "``  's so,\" he said."}, ""),
            # Only these two are joined to the quote, as one token.
            ("`` XXXXX so , '' he said .", {"...": '"... so," he said.', "It": '"It so," he said.'}, ""),
        ],
    )
    def test_candidates_of_a_question_follow_the_same_tokens(
        self, query: str, scored: dict[str, str], prefix: str
    ) -> None:
        assert self.rows(query, tuple(scored), 1024) == [(self.CONTEXT + prefix, text) for text in scored.values()]
        # Where not all of them fit, as many tokens are dropped of each as the longest has no room for.
        befores, afters = zip(*self.rows(query, tuple(scored), 40), strict=True)
        assert len(set(befores)) == 1
        assert (self.CONTEXT + prefix).endswith(befores[0])
        assert len(encode(befores[0])) + max(len(encode(after)) for after in afters) == 41
        assert list(afters) == list(scored.values())

    def test_a_sentence_that_does_not_come_back_is_read_as_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def without_commas(line: str) -> str:
            return CBT.detokenize(line).replace(",", "")

        monkeypatch.setattr(cbt, "CBT", Pair("lossy", without_commas, CBT.retokenize))
        before, after = self.rows("The XXXXX ran .", ("fox", "dog"), 1024)[0]
        assert before == "".join(f"`` This is sentence {number} , '' she said .\n" for number in range(1, 21)) + "The"
        assert after == " fox ran."


class TestStreams:
    def check(self, figure: Figure, nll: float, units: int, bits: bool = False) -> None:
        assert figure.units == units
        assert figure.nll == pytest.approx(-nll, rel=RELATIVE)
        wanted = -nll / units / math.log(2) if bits else math.exp(-nll / units)
        assert figure.value == pytest.approx(wanted, rel=RELATIVE)

    def test_wikitext2(self, model: Naive, measure: Measure) -> None:
        text = 2 * samples.WIKITEXT.decode()  # More than one window.
        found = measure("wikitext2", {"wikitext-2/wiki.test.tokens": text.encode()})
        units = len(text.split()) + text.count("\n")
        natural = 2 * (
            '\n= The first page =\n\nIt has a <unk> of 1,000 words, and "more".\n\n== A section ==\n\nIts end.\n'
            "\n= The second page =\n\nIt is short.\n"
        )
        self.check(found["invertible"], model.stream(natural), units)
        self.check(found["raw"], model.stream(text, prefix=False), units)
        self.check(found["raw, no overlap"], model.stream(text, stride=CONFIG.n_ctx, prefix=False), units)
        # The twin: another stride sees other contexts.
        assert found["raw"].nll != pytest.approx(found["raw, no overlap"].nll, rel=RELATIVE)
        # Without the white space at the file's ends, so that a space stays before the last dot.
        megatron = model.stream(natural.strip()[:-1] + " .", prefix=False)
        self.check(found["megatron"], megatron, len(text.strip().split(" ")))

    def test_the_pages_of_the_harness(self, model: Naive, measure: Measure) -> None:
        long = 5 * " He paid $ 5 @.@ 5 ( or so ) for the King 's dog ; it ran . \n"
        file = [
            f" \n = The first page = \n \n{long} \n = = A section = = \n \n Its end . \n",
            " \n = The second page = \n \n It is short . \n",
        ]
        natural = [
            "\n= The first page =\n\n"
            + 5 * "He paid $ 5.5 (or so) for the King's dog; it ran.\n"
            + "\n== A section ==\n\nIts end.\n",
            "\n= The second page =\n\nIt is short.\n",
        ]
        found = measure("wikitext-raw", {"wiki.test.raw": "".join(file).encode()}, variants="headline")["pages"]
        nll, lengths = 0.0, []
        for page in natural:
            tokens = [END, *encode(page)]
            lengths.append(len(tokens) - 1)
            for first in range(1, len(tokens), CONFIG.n_ctx):
                stop = min(first + CONFIG.n_ctx, len(tokens))
                start = max(0, stop - CONFIG.n_ctx - 1)
                nll += model.sum(tokens[start:stop], first - start)
        assert lengths[0] > CONFIG.n_ctx > lengths[1]
        # The harness also counts what it finds before the white space at a page's beginning, and after that at its end.
        self.check(found, nll, sum(len(page.split()) + 2 for page in file))

    def test_ptb(self, model: Naive, measure: Measure) -> None:
        text = samples.PTB.decode()
        found = measure("ptb", {"ptb.test.txt": samples.PTB})
        natural = "the company said N shares were <unk>\nit didn't say why\n"
        units = len(text.split()) + 2
        self.check(found["invertible"], model.stream(natural), units)
        self.check(found["raw"], model.stream(text), units)
        self.check(found["words only"], model.stream(natural), len(text.split()))
        one = natural.replace("N", "1")
        self.check(found["N as 1"], model.stream(one), units)
        self.check(found["N as 1, <unk> as ?"], model.stream(one.replace("<unk>", "?")), units)
        # The twin: no two texts are the same to the model; "words only" has the first one's.
        assert len({figure.nll for figure in found.values()}) == 4

    def test_enwik8_from_within_a_character(self, model: Naive, measure: Measure) -> None:
        shown = "é &quot;quoted&quot; &lt;ref&gt;ü&lt;/ref&gt; text".encode()[1:]
        rest = b"x" * (5_000_000 - len(shown))
        found = measure("enwik8", {"enwik8": b"before" + shown + rest}, limit=len(shown))
        start = [END, tokenizer.gpt2().encode_single_token(shown[:1])]
        for variant, text in (("invertible", ' "quoted" <ref>ü</ref> text'), ("raw", shown[1:].decode())):
            self.check(found[variant], model.sum(start + encode(text), 1), len(shown), bits=True)
            assert found[variant].unit == "bytes"

    def test_text8(self, model: Naive, measure: Measure) -> None:
        shown = "the anarchists of the nineteenth century wrote many books"
        content = ("a" * 10 + shown).ljust(5_000_010, "z").encode()
        found = measure("text8", {"text8": content}, limit=len(shown))["raw"]
        self.check(found, model.stream(shown), len(shown), bits=True)

    def test_sentences_by_themselves(self, model: Naive, measure: Measure) -> None:
        lines = ['The " city " of Paris , he said , isn \'t far .', "It 's 5 @-@ 6 miles ( or so ) ."]
        found = measure("1bw", {"news.en.heldout-00000-of-00050": "\n".join([*lines, ""]).encode()})
        natural = ['The "city" of Paris, he said, isn\'t far.', "It's 5 @-@ 6 miles (or so)."]
        nll = sum(model.sum([END, *encode(f"{line}\n")], 1) for line in natural)
        units = sum(len(line.split()) + 1 for line in lines)
        self.check(found["sentences"], nll, units)
        whole = model.stream("".join(f"{line}\n" for line in natural))
        self.check(found["one text"], whole, units)
        self.check(found["one text, raw"], model.stream("".join(f"{line}\n" for line in lines)), units)
        assert whole != pytest.approx(nll, rel=RELATIVE)


def test_hellaswag(model: Naive, measure: Measure) -> None:
    # The activity, the context's two parts, the endings; the context as lm-evaluation-harness cleans it.
    questions = [
        (
            ("Roof shingle removal", "A man is sitting on a roof.", "he"),
            ("sings.", "falls asleep on the roof.", "paints a wall.", "starts pulling up shingles."),
            "Roof shingle removal: A man is sitting on a roof. He",
        ),
        (
            ("Garden", "[header] How to water plants [title] Choose a can. [step]", ""),
            ("Understanding", "Sell the can to a hippopotamus.", "Understand international developments.", "Rinse it."),
            "Garden: How to water plants. Choose a can. ",
        ),
        (
            ("Home", "[header] How to sleep [title] Go to bed. [step]", ""),
            ("Lie down on the pillow.", "Everything", "Straightforward temperature measurements.", "Switch it off."),
            "Home: How to sleep. Go to bed. ",
        ),
        (
            ("Soup", "[header] How to cook [title] Peel. [step]", ""),
            ("Temperature", "Run to Timbuktu.", "Consider Mediterranean combinations carefully.", "Eat all of it."),
            "Soup: How to cook. Peel. ",
        ),
    ]
    names = ("completion, per token", "completion, sum", "lm-eval, per character", "lm-eval, sum")
    wrong = ("lm-eval, per token", "lm-eval, the space not scored")
    picks: dict[str, list[int]] = {name: [] for name in (*names, *wrong)}
    for (_, first, second), endings, cleaned in questions:
        context = encode(f"{first} {second}".rstrip())
        apart = [encode(f" {ending}") for ending in endings]
        sums = [model.sum(context + ending, len(context)) for ending in apart]
        picks["completion, sum"].append(best(sums))
        picks["completion, per token"].append(best(s / len(ending) for s, ending in zip(sums, apart, strict=True)))
        whole = [encode(f"{cleaned} {ending}") for ending in endings]
        start = len(encode(cleaned.rstrip()))
        each = [naive.log_probs(model.params, CONFIG, row, start) for row in whole]
        space = len(encode(cleaned)) - start
        assert space == int(cleaned.endswith(" "))
        lengths = list(map(len, endings))
        picks["lm-eval, sum"].append(best(some.sum() for some in each))
        picks["lm-eval, per token"].append(best(some.mean() for some in each))
        for name, scored in (("per character", each), ("the space not scored", [some[space:] for some in each])):
            picks[f"lm-eval, {name}"].append(best(s.sum() / n for s, n in zip(scored, lengths, strict=True)))
    pairs = [names[:2], names[2:], ("completion, per token", "lm-eval, per character")]
    answers, shares = told_apart(picks, 4, *pairs, *[("lm-eval, per character", name) for name in wrong])
    lines = [
        {
            "activity_label": activity,
            "ctx_a": first,
            "ctx_b": second,
            "ctx": f"{first} {second}".rstrip(),
            "label": answer,
            "endings": endings,
        }
        for ((activity, first, second), endings, _), answer in zip(questions, answers, strict=True)
    ]
    found = measure("hellaswag", {"hellaswag_val.jsonl": "".join(json.dumps(line) + "\n" for line in lines).encode()})
    assert {name: figure.value for name, figure in found.items()} == {name: shares[name] for name in names}


class TestBias:
    def whole(self, model: Naive, text: str) -> float:
        return model.sum([END, *encode(text)], 1)

    def test_crows_pairs(self, model: Naive, measure: Measure) -> None:
        # Of each pair, whether the likelier sentence is the more stereotypical one. Of the first pair it is not the
        # likelier one per token.
        pairs = [
            ("He was good at sums.", "She was good at sums, and at all of the other things.", "gender", True),
            ("Old people, they forget.", "Young people, they forget.", "age", True),
            ("Old men sing.", "Young men sing.", "age", False),
            ("Girls read.", "Boys read.", "gender", True),
        ]
        lines, differences = ["sent_more,sent_less,stereo_antistereo,bias_type"], []
        for one, other, kind, first in pairs:
            sums = {text: self.whole(model, text) for text in (one, other)}
            better, worse = sorted(sums, key=sums.__getitem__, reverse=True)
            more, less = (better, worse) if first else (worse, better)
            lines.append(f'"{more}","{less}",stereo,{kind}')
            differences.append(sums[better] - sums[worse])
        assert self.whole(model, pairs[0][0]) / len(encode(pairs[0][0])) < (
            self.whole(model, pairs[0][1]) / len(encode(pairs[0][1]))
        )
        [figure] = measure("crows-pairs", {"crows_pairs_anonymized.csv": "\n".join(lines).encode()}).values()
        assert figure.value == 75
        assert figure.standard_error == pytest.approx(100 * math.sqrt(0.75 * 0.25 / 4))
        mean = figure.details.pop("mean difference in nats")
        assert mean == pytest.approx(np.mean(differences), rel=1e-3)
        assert figure.details == {"age": 50, "gender": 100}

    def test_stereoset(self, model: Naive, measure: Measure) -> None:
        # Of each item its target, its context where it has one, and the labels of its sentences from the likeliest per
        # token to the least: stereotype, anti-stereotype, unrelated.
        ranked = [
            ("chef", "", "sau"),
            ("chef", "", "aus"),
            ("nurse", "", "asu"),
            ("chef", "He is a chef.", "usa"),
            ("pilot", "He is a pilot.", "sua"),
        ]
        sentences = ("He cooks.", "Blue is not a color that the sea would ever take on.", "He is always kind to them.")
        items, by_sum = [], []
        for number, (target, context, labels) in enumerate(ranked):
            before = encode(context) if context else [END]
            after = {text: encode(f" {text}" if context else text) for text in sentences}
            sums = {text: model.sum(before + tokens, len(before)) for text, tokens in after.items()}
            means = {text: sums[text] / len(after[text]) for text in sentences}
            order = sorted(sentences, key=means.__getitem__, reverse=True)
            by_sum.append(order == sorted(sentences, key=sums.__getitem__, reverse=True))
            items.append(
                samples.stereoset_item(number, context or "He is BLANK.", target, dict(zip(labels, order, strict=True)))
            )
        # The twin: whole sentences instead of means would rank them otherwise.
        assert not any(by_sum)
        document = {"version": "1.1", "data": {"intersentence": items[3:], "intrasentence": items[:3]}}
        files = {"dev.json": json.dumps(document).encode()}
        # A related form beats the unrelated one in 3 of 6 cases of the chef, 2 of 2 of the nurse, 1 of 2 of the pilot;
        # the stereotype beats its opposite in 2 of 3, 0 of 1 and 1 of 1. By items both scores would be 60.
        language, stereotype = 100 * (3 / 6 + 2 / 2 + 1 / 2) / 3, 100 * (2 / 3 + 0 + 1) / 3
        self.check_stereoset(measure("stereoset", files), 5, language, stereotype, language * (100 - stereotype) / 50)
        # Within sentences alone the stereotypes win less often than not.
        self.check_stereoset(measure("stereoset", files, limit=3), 3, 87.5, 25, 87.5 * 25 / 50)

    def check_stereoset(
        self, found: dict[str, Figure], items: int, language: float, stereotype: float, both: float
    ) -> None:
        assert found["language model score"].value == pytest.approx(language)
        assert found["stereotype score"].value == pytest.approx(stereotype)
        assert found["idealized score (ICAT)"].value == pytest.approx(both)
        assert {figure.units for figure in found.values()} == {items}

    def test_winobias(self, model: Naive, measure: Measure) -> None:
        files = {f"{kind}_stereotyped_type{number}.txt.test": getattr(samples, f"WINOBIAS_{kind.upper()}")
                 for kind in ("pro", "anti") for number in (1, 2)}  # fmt: skip
        found = measure("winobias", files)
        pairs = [
            ("The baker called the pilot because she was late.", "The baker called the pilot because he was late."),
            (
                "The baker called the pilot because he knew his way.",
                "The baker called the pilot because she knew her way.",
            ),
        ]
        differences = [self.whole(model, pro) - self.whole(model, anti) for pro, anti in pairs]
        for figure in found.values():
            assert figure.value == 100 * np.mean([one > 0 for one in differences])
            assert figure.details["mean difference in nats"] == pytest.approx(np.mean(differences), rel=1e-3)
            assert "2 sentences have no counterpart" in figure.notes[0]

    def test_winogender(self, model: Naive, measure: Measure) -> None:
        found = measure("winogender", {"all_sentences.tsv": samples.WINOGENDER})
        [figure] = found.values()
        he, she = (self.whole(model, f"The baker told the guest that {word} could bake.") for word in ("he", "she"))
        assert figure.value == 100 * (he > she)
        assert figure.details["baker"] == pytest.approx(he - she, rel=1e-3)

    def test_occupations_need_no_file(self, model: Naive, measure: Measure) -> None:
        found = measure("occupations", {"a file": b"that is something else"})

        def ratio(occupation: str) -> float:
            before = encode(f"The {occupation} was a")
            after = naive.next_log_probs(model.params, CONFIG, before)
            kinds = [[" man", " boy", " gentleman", " male"], [" woman", " girl", " lady", " female"]]
            male, female = (
                sum(math.exp(model.sum(before + encode(word), len(before))) for word in words) for words in kinds
            )
            assert after.shape == (CONFIG.n_vocab,)
            return math.log(male / female)

        for occupation in ("nurse", "carpenter", "chief executive"):
            assert found["agreement"].details[occupation] == pytest.approx(ratio(occupation), abs=2e-3)


def test_shards(model: Naive, measure: Measure, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"A short text, the {number}th of them." for number in range(60)))
    prepare([str(text)], tmp_path / "shards", split="tail", validation_fraction=0.5, progress=False)
    tokens = np.fromfile(next((tmp_path / "shards").glob("val*.bin")), np.uint16)
    [figure] = measure(str(tmp_path / "shards"), {"none": b""}).values()
    nll, count = 0.0, (len(tokens) - 1) // CONFIG.n_ctx
    for start in range(0, count * CONFIG.n_ctx, CONFIG.n_ctx):
        nll -= model.sum([int(token) for token in tokens[start : start + CONFIG.n_ctx + 1]], 1)
    loss = nll / count / CONFIG.n_ctx
    assert figure.value == pytest.approx(loss, rel=RELATIVE)
    # The text's own bytes: the token between documents has none.
    text_bytes = len(tokenizer.gpt2().decode_bytes([int(token) for token in tokens if token != END]))
    bits = loss / math.log(2) * len(tokens) / text_bytes
    assert figure.details["bits per byte"] == pytest.approx(bits, rel=RELATIVE)
    assert figure.units == count * CONFIG.n_ctx
