"""De-tokenizers: what natural text they write, that no line is lost on the way there and back, and exact counts."""

import dataclasses
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate.detokenize import (
    CBT,
    DETOKENIZERS,
    ENWIK8,
    LM1B,
    PTB,
    PTB_ONE,
    PTB_ONE_QUERY,
    WIKITEXT,
    Detokenizer,
    Pair,
    detokenized,
    megatron_rules,
    megatron_wikitext,
)
from gpt2jax.evaluate.detokenize.words import Joined, WordDetokenizer
from gpt2jax.tokenizer import encode_corpus, gpt2
from tests.helpers import shared_data

WORDS = [pair for pair in DETOKENIZERS.values() if isinstance(pair, WordDetokenizer)]

_MARKS = """
    " ' '' `` ` . .. ... , - -- @-@ @,@ @.@ @- ( ) [ ] { } -LRB- -RRB- ? ! $ us$ # % = == : / _ &
    &amp; &lt; &quot; lt; amp; < > <title> </title> <text> \u00b0 \u2013 \u2014 \u2019 \u0301 \u094d \u200d
    1 2.5 1,000 1,000th T2.5 N <unk> <formula> 's 's 't 've n't N'T 'tis 'em can not cannot gon na
    Mr Mr. Jr Jr. U.S. No a A. B The s ships x-y -x x- \u2019s \u00e9
"""
NASTY = _MARKS.split()
SPACES = ["", "\u00a0", "\u2009", "\u3000", "\u2028", "\u0085", "\t", "\r", "\f"]

ANYTHING = st.text(st.characters(exclude_characters="\n"))
SPACED = st.lists(st.sampled_from(NASTY + SPACES), max_size=14).map(" ".join)
JUMBLED = st.lists(st.sampled_from([*NASTY, *SPACES, " ", "  "]), max_size=14).map("".join)
LINE = st.one_of(ANYTHING, SPACED, JUMBLED)


def assert_restored(lines: list[str], pair: Detokenizer) -> None:
    result = detokenized(lines, pair)
    assert result.original() == lines
    assert len(set(result.lines)) == len(set(lines))


def tokens(text: str) -> int:
    return len(encode_corpus(gpt2(), text))


@pytest.mark.parametrize(
    ("pair", "line", "natural"),
    [
        (WIKITEXT, " ", ""),
        (WIKITEXT, " = Robert <unk> = ", "= Robert <unk> ="),
        (WIKITEXT, " = = = 2000 – 2005 = = = ", "=== 2000–2005 ==="),  # noqa: RUF001
        (WIKITEXT, ' He had a guest @-@ starring role , " Craig " . ', 'He had a guest-starring role, "Craig".'),
        (WIKITEXT, " It cost $ 5 @.@ 5 million ( 1 @,@ 250 @,@ 000 t ) . ", "It cost $5.5 million (1,250,000 t)."),
        (WIKITEXT, " The <unk> @-@ class weighs 18 @,@ <unk> t . ", "The <unk>-class weighs 18,<unk> t."),
        (WIKITEXT, " You don 't know what Teddy 's is ! ", "You don't know what Teddy's is!"),
        (WIKITEXT, " The ships ' belt ; P 'ohang [ ... ] ", "The ships' belt; P'ohang [...]"),
        (WIKITEXT, " \" I said , ' You 're out ' . \" ", "\"I said, 'You're out'.\""),
        (WIKITEXT, " Mr. McMahon of the U.S. came No. 2 at 16 : 40 . ", "Mr. McMahon of the U.S. came No. 2 at 16:40."),
        (WIKITEXT, " At 24 km / h , 50 % of AT & T fell . ", "At 24 km/h, 50% of AT&T fell."),
        (WIKITEXT, " in the ' 80s and \u091c \u094d \u091e ", "in the '80s and \u091c\u094d\u091e"),
        (PTB, " no it was n't the dealer 's day ", "no it wasn't the dealer's day"),
        (PTB, " the traders ' <unk> lost $ N million ", "the traders' <unk> lost $N million"),
        (PTB, " they should n't 've paid c$ N of $ <unk> 's ", "they shouldn't've paid c$N of $<unk>'s"),
        (PTB_ONE, " it fell N to $ N from <unk> ", "it fell 1 to $1 from <unk>"),
        (PTB_ONE_QUERY, " it fell N to $ <unk> 's N ", "it fell 1 to $?'s 1"),
        (CBT, "`` Father , '' said he , `` I ca n't go ! ''", '"Father," said he, "I can\'t go!"'),
        (CBT, "You can not -LRB- or wo n't -RRB- ...", "You cannot (or won't)..."),
        (CBT, "He said : `` ` Go , Dr. Toad ! ' It 's J. Rat 's . ''", "He said: \"'Go, Dr. Toad!' It's J. Rat's.\""),
        (CBT, "'T was gon na rain . The boys ' mother came .", "'Twas gonna rain. The boys' mother came."),
        (LM1B, '" It \'s only the beginning , " he said ( AP ) .', '"It\'s only the beginning," he said (AP).'),
        (
            LM1B,
            "A $ 5.1 million , 30-year-old plan - I don 't know .",
            "A $5.1 million, 30-year-old plan - I don't know.",
        ),
        (LM1B, "See http : / / www.example.com / a for 1,000 more .", "See http://www.example.com/a for 1,000 more."),
        (ENWIK8, "&lt;ref name=&quot;a&quot;&gt;1 &amp;nbsp; AT&amp;T", '<ref name="a">1 &nbsp; AT&T'),
        (ENWIK8, "    <title>R&amp;B</title>", "    <title>R&B</title>"),
        (ENWIK8, '  <text xml:space="preserve">a &lt; b', '  <text xml:space="preserve">a < b'),
        (ENWIK8, "&amp;lt; is &lt;", "&amp;lt; is <"),
    ],
)
def test_natural_text(pair: Detokenizer, line: str, natural: str) -> None:
    assert pair.detokenize(line) == natural
    assert pair.retokenize(natural) == line


@pytest.mark.parametrize(
    ("pair", "line", "natural"),
    [
        # Joined it would come back as Jr. and A.: the dot stays a word of its own.
        (WIKITEXT, ' " It was Jr . and A . " ', '"It was Jr . and A ."'),
        # Cut it would be 1 @,@ 000 and foo . at the end of a line: two spaces before it.
        (WIKITEXT, " He ( with 1,000 men ) left . ", "He (with  1,000 men) left."),
        (WIKITEXT, " a foo. ", "a  foo."),
        (LM1B, "On Jan. 5 , he left .", "On  Jan. 5, he left."),
        (LM1B, "two  spaces .", "two   spaces."),
        (CBT, "`` Quote '' \" Quote", '"Quote"  " Quote'),
        (PTB_ONE, " about 1 of N ", "about  1 of 1"),
        (PTB, " ' it is ", "' it is"),
    ],
)
def test_exceptions_stay_at_their_place(pair: Detokenizer, line: str, natural: str) -> None:
    assert pair.detokenize(line) == natural
    assert pair.retokenize(natural) == line


@settings(max_examples=40)
@given(st.lists(LINE, max_size=5))
@pytest.mark.parametrize("pair", DETOKENIZERS.values(), ids=DETOKENIZERS)
def test_no_line_changes_there_and_back(pair: Detokenizer, lines: list[str]) -> None:
    assert_restored(lines, pair)
    # The worst company for a line is the text that another becomes.
    assert_restored(lines + detokenized(lines, pair).lines, pair)


@settings(max_examples=80)
@given(LINE)
@pytest.mark.parametrize("pair", WORDS, ids=[pair.name for pair in WORDS])
def test_every_line_in_the_form_of_its_data_set_round_trips(pair: WordDetokenizer, line: str) -> None:
    if pair.padded:
        line = f" {line} " if line else " "
    assert pair.retokenize(pair.detokenize(line)) == line


def test_all_of_ptb_is_covered() -> None:
    lines = [
        " no it was n't black monday ",
        " but the plunge of N points or N N did n't stop mr. <unk> 's u.s. traders ",
        " the <unk> ' <unk> $ N us$ N-a-share N\\/N notes ",
        " we 've a $ <unk> million N-year-old s&p 's 'n r&b '70s plan they 'd ca n't # N ",
    ]
    for pair in (PTB, PTB_ONE, PTB_ONE_QUERY):
        result = detokenized(lines, pair)
        assert (result.kept, result.changed, result.coverage) == (0, 4, 1.0)
    # Twin: a release that has stripped its lines is of another form, and says so in its coverage.
    stripped = [line.strip() for line in lines]
    assert detokenized(stripped, PTB).lines == stripped
    assert detokenized(stripped, PTB).kept == 4
    assert detokenized(stripped, dataclasses.replace(PTB, padded=False)).kept == 0


def test_a_candidate_is_spelled_like_any_other_word() -> None:
    passage = "`` I am late , '' said the XXXXX 's friend . `` Oh -- '' -- `` ah ! ''"
    spelled = [CBT.detokenize(passage.replace("XXXXX", word)) for word in ("Rabbit", "King")]
    assert spelled[0] == '"I am late," said the Rabbit\'s friend. "Oh--"--"ah!"'
    assert spelled[1] == spelled[0].replace("Rabbit", "King")


def test_wikitext2_test_file() -> None:
    file = shared_data("wikitext2.test.tokens").read_text(encoding="utf-8")
    lines = file.split("\n")[:-1]
    assert len(lines) == 4358
    assert tokens(file) == 295_877
    result = detokenized(lines, WIKITEXT)
    assert (result.kept, result.words_covered, result.words) == (0, 241_211, 241_211)
    assert result.original() == lines
    assert len(set(result.lines)) == len(set(lines))
    assert result.changed == 4358
    assert tokens("".join(f"{line}\n" for line in result.lines)) == 278_221
    # Nothing had to be left tokenized: no second space announces a word, no mark stands apart.
    assert not any("  " in line or " ." in line or " ," in line or "@" in line for line in result.lines)


def test_megatron_rules_on_the_wikitext2_test_file() -> None:
    file = shared_data("wikitext2.test.tokens").read_text(encoding="utf-8")
    assert tokens(megatron_wikitext(file)) == 278_364
    # Each line for itself, and undone by our own way back: they lose what they change.
    result = detokenized(file.split("\n")[:-1], Pair("megatron", megatron_wikitext, WIKITEXT.retokenize))
    assert 0.5 < result.coverage < 0.98
    assert result.original() == file.split("\n")[:-1]


def test_megatron_rules() -> None:
    page = " = A = \n \n = = B = = \n \n It 's ( N ) , \" a @-@ b \" ; 5 @.@ 5 ° C : \n the men 's ' x ' . \n"
    natural = " = A =\n\n== B ==\n\nIt's (N), \"a-b\"; 5.5°C:\nthe men's'x'.\n"
    assert megatron_rules(page) == natural
    # A whole file is stripped before: its last dot keeps the space before it.
    assert megatron_wikitext(page) == natural.strip()[:-1] + " ."
    # Two lines that become one: no way back can be right for both.
    assert megatron_rules("the N dogs") == megatron_rules("the 1 dogs") == "the 1 dogs"


def test_a_wrong_way_back_covers_nothing() -> None:
    lines = [" It was n't so , he said . ", " = A = ", " "]
    for retokenize in (str.upper, str.strip, lambda line: line + "?"):
        result = detokenized(lines, Pair("wrong", PTB.detokenize, retokenize))
        assert result.lines == lines
        assert (result.changed, result.kept, result.coverage) == (0, 3, 0.0)
        assert result.original() == lines
    right = detokenized(lines, PTB)
    assert (right.changed, right.kept, right.coverage) == (3, 0, 1.0)


def test_a_line_that_would_become_a_kept_one_is_kept() -> None:
    up = {"a": "b", "b": "c", "c": "d", "x": "y"}
    down = {new: old for old, new in up.items()}
    pair = Pair("letters", lambda line: up.get(line, line), lambda line: down.get(line, line))
    # d does not come back (c does), so c may not become d, nor b c, nor a b.
    result = detokenized(["x", "a", "b", "c", "d"], pair)
    assert result.lines == ["y", "a", "b", "c", "d"]
    assert result.as_is == {"a", "b", "c", "d"}
    assert (result.changed, result.kept, result.words, result.words_covered) == (1, 4, 5, 1)
    assert result.original() == ["x", "a", "b", "c", "d"]
    assert detokenized(["x", "a", "b", "c"], pair).lines == ["y", "b", "c", "d"]
    # The same with real lines: markup that someone forgot to escape.
    assert detokenized(["&lt;b&gt;", "<b>"], ENWIK8).lines == ["&lt;b&gt;", "<b>"]
    assert detokenized(["&lt;b&gt;"], ENWIK8).lines == ["<b>"]


def test_rules_that_do_not_keep_the_words_end_with_the_line() -> None:
    def joins(words: Sequence[str]) -> list[Joined | None]:
        return [Joined(True, False, word) for word in words]

    def cut(piece: str, following: str) -> Iterator[str]:
        yield from (piece, following)

    pair = WordDetokenizer("doubled", joins, cut)
    assert pair.detokenize("a b") == "a b"
    assert detokenized(["a b"], pair).lines == ["a b"]


def test_enwik8_is_bytes() -> None:
    # The scored part of the file may begin and end within a character.
    data = "é &lt;é&gt;\né &amp;amp; ü".encode()[1:-1]
    result = detokenized(data.decode("latin-1").split("\n"), ENWIK8)
    assert "\n".join(result.lines).encode("latin-1") == "é <é>\né &amp;amp; ü".encode()[1:-1]
    assert "\n".join(result.original()).encode("latin-1") == data


def test_a_newline_in_a_line_is_named() -> None:
    with pytest.raises(GPT2JaxError, match=r"ptb, line 2: ' b\\n ': holds a newline"):
        detokenized([" a ", " b\n "], PTB)


def test_an_empty_file_is_covered() -> None:
    result = detokenized([], WIKITEXT)
    assert (result.lines, result.words, result.coverage) == ([], 0, 1.0)
