"""Readers: items as the files mean them; bad input named by file and line; the counts of the real files."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import tiktoken

from gpt2jax import tokenizer
from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate import units
from gpt2jax.evaluate.find import Found, find
from gpt2jax.evaluate.readers.cbt import read_cbt
from gpt2jax.evaluate.readers.crows_pairs import read_crows_pairs
from gpt2jax.evaluate.readers.hellaswag import read_hellaswag
from gpt2jax.evaluate.readers.lambada import READINGS, read_lambada, read_lambada_plain
from gpt2jax.evaluate.readers.stereoset import read_stereoset
from gpt2jax.evaluate.readers.streams import read_lines, read_sentences, read_tail, read_text8
from gpt2jax.evaluate.readers.winobias import pair, read_winobias
from gpt2jax.evaluate.readers.winogender import read_winogender, schemas
from tests.evaluate.samples import (
    CANDIDATES,
    CBT,
    CROWS_PAIRS,
    HELLASWAG,
    LAMBADA,
    LAMBADA_PLAIN,
    LAMBADA_TEXTS,
    PTB,
    STEREOSET,
    WIKITEXT,
    WINOBIAS_ANTI,
    WINOBIAS_PRO,
    WINOGENDER,
    cbt_block,
)
from tests.helpers import shared_data


@pytest.fixture(scope="module")
def gpt2() -> tiktoken.Encoding:
    return tokenizer.gpt2()


def test_units_by_rule() -> None:
    text = WIKITEXT.decode()
    assert len(units.pages(text)) == 2
    assert "".join(units.pages(text)) == text
    words, lines = len(text.split()), text.count("\n")
    counts = {rule: units.count(text, rule) for rule in units.RULES}
    assert counts == {
        "words+newlines": words + lines,
        # Between its first word and its last: what stands before and after is taken off with the spaces there.
        "split-on-spaces": words + lines - 2,
        "words": words,
        "words-by-page": words + 2 * 2,
        "bytes": len(WIKITEXT),
        "characters": len(text),
    }
    with pytest.raises(GPT2JaxError, match=r"unit: 'word': unknown \(nearest: words\)"):
        units.count(text, "word")


def test_units_of_the_real_file(gpt2: tiktoken.Encoding) -> None:
    folder = shared_data("wikitext2.test.tokens").parent
    found = find("wikitext2", folder)
    assert isinstance(found, Found)
    lines = read_lines(found.data, found.where)
    text = "".join(lines)
    assert text.encode() == found.data
    assert len(lines) == 4358
    assert {rule: units.count(text, rule) for rule in units.RULES} == {
        "words+newlines": 245_569,
        "split-on-spaces": 245_566,
        "words": 241_211,
        "words-by-page": 241_335,
        "bytes": 1_256_449,
        "characters": len(text),
    }
    assert len(units.pages(text)) == 62
    assert text.split().count("<unk>") == 15_218
    assert len(gpt2.encode_ordinary(text)) == 295_877
    # The twin: without the blank lines' spaces, as a copy of stripped lines has it, another U and another T.
    stripped = "".join(line.strip() + "\n" for line in lines)
    assert units.count(stripped, "split-on-spaces") != 245_566
    assert len(gpt2.encode_ordinary(stripped)) != 295_877


def test_lambada_readings() -> None:
    openai, straight, plain = (read_lambada(LAMBADA, "f", name) for name in ("openai", "straight-quotes", "as-is"))
    assert [item.line for item in openai] == [1, 2, 3]
    assert (
        openai[0].context
        == '\n"Where is it?" she asked. He had looked for the key all day, and now she was wearing the'
    )
    assert openai[0].target == " key"
    assert [item.text for item in plain] == list(LAMBADA_TEXTS)
    assert [item.text for item in openai] == ["\n" + item.text for item in straight]
    assert plain[0].context.startswith("“Where")
    assert straight[0].context.startswith('"Where')
    assert plain[2].word == "old\nlighthouse"
    assert read_lambada(LAMBADA, "f") == openai
    tokenised = read_lambada_plain(LAMBADA_PLAIN, "f")
    assert [(item.context[-8:], item.word) for item in tokenised] == [("ened the", "box"), ("seen the", "box")]
    with pytest.raises(GPT2JaxError, match="lambada reading: 'OpenAI': unknown"):
        read_lambada(LAMBADA, "f", "OpenAI")


def test_the_real_lambada(gpt2: tiktoken.Encoding) -> None:
    found = find("lambada", shared_data("lambada_test.jsonl").parent)
    assert isinstance(found, Found)
    targets = {}
    for reading in READINGS:
        items = read_lambada(found.data, found.where, reading)
        assert len(items) == 5153
        for item in items[::50]:
            assert gpt2.encode_ordinary(item.context) + gpt2.encode_ordinary(item.target) == gpt2.encode_ordinary(
                item.text
            )
        targets[reading] = sum(len(gpt2.encode_ordinary(item.target)) for item in items)
    # Straight quotes in the seven targets of two words, and after last words, are fewer tokens.
    assert targets == {"as-is": 6573, "openai": 6557, "straight-quotes": 6557}
    assert sum("\n" in item.target for item in read_lambada(found.data, found.where, "as-is")) == 7


def test_cbt() -> None:
    first, second = read_cbt(CBT, "f")
    assert (first.line, second.line) == (21, 43)
    assert first.context[0] == "`` This is sentence 1 , '' she said ."
    assert len(first.context) == 20
    assert first.candidates == CANDIDATES
    assert first.candidates[first.answer] == "window"
    assert first.fill("door") == ("She opened the ", "door", " and looked out .")
    assert second.fill("bird") == ("The ", "bird", " flew away ; nobody saw the bird again .")
    fewer = read_cbt(CBT.replace(b"apple|", b"|", 1), "f")[0]
    assert (len(fewer.candidates), fewer.candidates[fewer.answer]) == (9, "window")


def test_hellaswag_conventions() -> None:
    first, second = read_hellaswag(HELLASWAG, "f")
    assert (first.context, first.answer, first.source) == ("A man is sitting on a roof. he", 3, "activitynet")
    assert second.endings[0] == "[step] Fill it."
    first, second = read_hellaswag(HELLASWAG, "f", "lm-eval")
    assert first.context == "Roof shingle removal: A man is sitting on a roof. He"
    assert second.context == "Home and Garden: How to water plants. Choose a can."
    assert second.endings == (" Fill it.", " Sell it.", "Throw it away.", "Eat it.")
    with pytest.raises(GPT2JaxError, match="hellaswag convention: 'lm_eval': unknown"):
        read_hellaswag(HELLASWAG, "f", "lm_eval")


def test_crows_pairs() -> None:
    first, second = read_crows_pairs(CROWS_PAIRS, "f")
    assert (first.more, first.less) == ("Old people, they forget.", "Young people, they forget.")
    assert (first.direction, first.bias_type, first.line) == ("stereo", "age", 2)
    assert (second.direction, second.bias_type) == ("antistereo", "gender")
    assert [one.more for one in read_crows_pairs(CROWS_PAIRS.replace(b"\n", b"\r\n"), "f")] == [first.more, second.more]


def test_stereoset() -> None:
    items = read_stereoset(STEREOSET, "f")
    assert [(item.id, item.kind) for item in items] == [
        ("i0", "intrasentence"),
        ("i1", "intrasentence"),
        ("i2", "intersentence"),
    ]
    first = items[0]
    assert (first.stereotype, first.anti_stereotype, first.unrelated) == (
        "Sentence stereotype.",
        "Sentence anti-stereotype.",
        "Sentence unrelated.",
    )
    assert (first.target, first.bias_type, first.context) == ("chef", "profession", "The chef is BLANK.")


def test_winobias_pairs_by_wording() -> None:
    pro, anti = read_winobias(WINOBIAS_PRO, "p"), read_winobias(WINOBIAS_ANTI, "a")
    assert pro[0].text == "The baker called the pilot because she was late."
    assert (pro[0].occupation, pro[0].pronouns) == ("The baker", ("she",))
    assert (pro[1].occupation, pro[1].pronouns) == ("the pilot", ("he", "his"))
    paired = pair(pro, anti)
    assert [(one.line, other.line) for one, other in paired.pairs] == [(1, 2), (2, 1)]
    assert paired.unpaired == 2
    assert pair(pro, pro).unpaired == 0


def test_winogender() -> None:
    items = read_winogender(WINOGENDER, "f")
    assert len(items) == 6
    assert (items[0].occupation, items[0].participant, items[0].referent) == ("baker", "guest", "participant")
    eat, bake = schemas(items, "f")
    assert eat["female"].text == "The baker told the guest that she could eat."
    assert bake["neutral"].referent == "occupation"
    with pytest.raises(GPT2JaxError, match=r"^f: line 5: baker.guest.occupation: no female, neutral sentence$"):
        schemas(items[:4], "f")
    with pytest.raises(GPT2JaxError, match=r"^f: line 2: baker.guest.participant: male twice$"):
        schemas([*items, read_winogender(WINOGENDER, "f")[0]], "f")


def test_streams() -> None:
    lines = read_lines(WIKITEXT, "f")
    assert lines[:3] == [" \n", " = The first page = \n", " \n"]
    assert "".join(lines).encode() == WIKITEXT
    assert read_lines("a\u2028b\x85c\n d".encode(), "f") == ["a\u2028b\x85c\n", " d"]  # Not line ends.
    assert read_sentences(PTB, "f") == [" the company said N shares were <unk> ", " it did n't say why "]
    assert read_tail("aé".encode(), "f", 1) == b"\xa9"  # The cut may fall inside a character.
    assert read_text8(b"THE end of it", "f", 8) == "nd of it"


Reader = Callable[[bytes, str], Any]
EVERY: list[tuple[Reader, bytes]] = [
    (read_lines, WIKITEXT),
    (read_sentences, PTB),
    (read_lambada, LAMBADA),
    (read_lambada_plain, LAMBADA_PLAIN),
    (read_cbt, CBT),
    (read_hellaswag, HELLASWAG),
    (read_crows_pairs, CROWS_PAIRS),
    (read_stereoset, STEREOSET),
    (read_winobias, WINOBIAS_PRO),
    (read_winogender, WINOGENDER),
]


@pytest.mark.parametrize(("read", "data"), EVERY, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_no_text_is_one_line(read: Reader, data: bytes) -> None:
    assert read(data, "f")
    for empty in (b"", b" \n\n"):
        with pytest.raises(GPT2JaxError, match=r"^f: is empty: should hold text$"):
            read(empty, "f")
    first = data.index(b"\n") + 1 if b"\n" in data else 5
    line = data[:first].count(b"\n") + 1
    with pytest.raises(GPT2JaxError, match=rf"^f: line {line}: byte {first}: 0xe9: not UTF-8: should be UTF-8 text$"):
        read(data[:first] + "é".encode("latin-1") + data[first:], "f")
    with pytest.raises(GPT2JaxError, match=r"^f: line 1: begins with a byte order mark"):
        read(b"\xef\xbb\xbf" + data, "f")


def hellaswag_with(**changes: object) -> bytes:
    rows = [json.loads(line) for line in HELLASWAG.decode().splitlines()]
    rows[1] |= changes
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize(
    ("read", "data", "message"),
    [
        (read_lines, b"one \r\n", r"line 1: ends in \\r\\n"),
        (read_sentences, b"one\n\ntwo\n", "line 2: empty: should be a sentence"),
        (read_tail, b"short", "5 bytes: should be 5,000,000 at least"),
        (
            lambda data, where: read_text8(data, where, 8),
            b"0123 the End",
            "byte 9: b'E': should be a letter from a to z",
        ),
        (read_lambada, LAMBADA + b"{'text': 1}\n", "line 4: not JSON"),
        (read_lambada, LAMBADA + b"[1]\n", "line 4: holds a list: should be an object"),
        (read_lambada, LAMBADA + b'{"txt": "a b"}\n', "line 4: 'text': missing: should be a string"),
        (read_lambada, LAMBADA + b'{"text": 7}\n', "line 4: 'text': int: should be a string"),
        (read_lambada, LAMBADA + b'{"text": " "}\n', "line 4: 'text': empty"),
        (read_lambada, LAMBADA + b'{"text": "a \\ud83d b"}\n', "line 4: 'text': .* at character 2: not a character"),
        (read_lambada, LAMBADA + b'{"text": "word"}\n', "line 4: no context before the last word"),
        (
            lambda data, where: read_lambada(data, where, "as-is"),
            LAMBADA + b'{"text": "it ends in a "}\n',
            "line 4: the target is empty: nothing follows the last space",
        ),
        (read_lambada_plain, b"a b\n\nc d\n", "line 2: no context before the last word"),
        (read_cbt, CBT.replace(b"XXXXX", b"gap", 1), "line 21: the query has no gap: should hold XXXXX"),
        (
            read_cbt,
            CBT.replace(b"\twindow\t", b"\ttable\t"),
            "line 21: answer 'table': not among the candidates apple, ",
        ),
        (read_cbt, CBT.replace(b"\twindow\t", b"\t\t"), "line 21: the answer is empty"),
        (read_cbt, CBT.replace(b"apple|", b"", 1), r"line 21: 9 candidates of 9: should be 10 with \| between them"),
        (read_cbt, CBT.replace("|".join(CANDIDATES).encode(), b"", 1), "line 21: 0 candidates of 1: should be 10"),
        (read_cbt, CBT.replace(b"\t", b" "), "line 21: 0 tabs: should be query, tab, answer, two tabs, candidates"),
        (
            read_cbt,
            cbt_block().encode() + b"1 A sentence .\n",
            "line 23: the last block ends after 1 lines: should have 21",
        ),
        (read_cbt, CBT.replace(b"\n5 ", b"\nfive ", 1), "line 5: begins with 'five': should be number 5 of its block"),
        (read_cbt, CBT.replace(b"\n21 ", b"\n1 ", 1), "line 21: begins with '1': should be number 21 of its block"),
        (read_cbt, b"1 \n" + CBT, "line 1: no sentence after its number"),
        (read_hellaswag, hellaswag_with(endings=["a", "b", "c"]), "line 2: 'endings': should be 4 strings"),
        (read_hellaswag, hellaswag_with(endings=["a", "b", "c", " "]), "line 2: an ending is empty"),
        (read_hellaswag, hellaswag_with(label=4), "line 2: 'label': 4: should be a number from 0 to 3"),
        (read_hellaswag, hellaswag_with(label=None), "line 2: 'label': None: should be a number from 0 to 3"),
        (read_hellaswag, hellaswag_with(ctx=""), "line 2: 'ctx': empty"),
        (
            lambda data, where: read_hellaswag(data, where, "lm-eval"),
            hellaswag_with(endings=["a", "b", "c", "[title]"]),
            "line 2: an ending is empty",
        ),
        (
            read_crows_pairs,
            CROWS_PAIRS.replace(b"sent_less", b"less"),
            "line 1: no column sent_less: should have sent_more, ",
        ),
        (read_crows_pairs, CROWS_PAIRS.replace(b"She was good at sums.", b""), "line 3: sent_less: empty"),
        (
            read_crows_pairs,
            CROWS_PAIRS.replace(b",antistereo,", b",both,"),
            "line 3: stereo_antistereo: 'both': should be",
        ),
        (read_crows_pairs, CROWS_PAIRS.split(b"\n")[0], "no rows below its head"),
        (read_crows_pairs, CROWS_PAIRS + b'2,"cut', "line 3: not CSV"),
        (read_stereoset, STEREOSET[:-5], "not JSON"),
        (read_stereoset, b'{"data": {"intrasentence": []}}', "data.intrasentence: should be a list of items"),
        (
            read_stereoset,
            STEREOSET.replace(b'"unrelated"', b'"stereotype"', 1),
            "intersentence.0.: gold_label 'stereotype'",
        ),
        (
            read_stereoset,
            STEREOSET.replace(b'"The chef is BLANK."', b"null"),
            r"data.intrasentence\[0\]: context: None",
        ),
        (
            read_stereoset,
            STEREOSET.replace(b'"target"', b'"goal"'),
            r"data.intrasentence\[0\]: target: None: should be text",
        ),
        (read_winobias, WINOBIAS_PRO + b"4 The baker left.\n", "line 4: 0 occupations and 0 pronouns in brackets"),
        (read_winobias, WINOBIAS_PRO + b"\n5 x\n", "line 4: empty: should be a sentence"),
        (read_winogender, b"id\ttext\n", "line 1: 'id.ttext': should be 'sentid.tsentence'"),
        (read_winogender, WINOGENDER + b"baker.guest.2.male.txt\tX\n", "line 8: .*: should be OCCUPATION.PARTICIPANT"),
        (read_winogender, WINOGENDER + b"baker.guest.1.male.txt\t \n", "line 8: no sentence"),
        (read_winogender, WINOGENDER.split(b"\n")[0], "no sentences below its head"),
    ],
)
def test_bad_input_names_the_line(read: Reader, data: bytes, message: str) -> None:
    with pytest.raises(GPT2JaxError, match=f"^f: {message}|^f: data.{message}") as caught:
        read(data, "f")
    assert "\n" not in str(caught.value)
