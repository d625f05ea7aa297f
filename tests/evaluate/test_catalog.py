"""The catalog and the paper's table: complete, and in agreement with each other."""

import re

import pytest

from gpt2jax import paper as paper_module
from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate import catalog as module
from gpt2jax.evaluate.catalog import catalog, dataset, members
from gpt2jax.paper import figure, paper
from gpt2jax.presets import PRESETS


def test_every_column_of_the_paper_has_a_data_set() -> None:
    columns = [column.name for column in paper().columns]
    assert len(columns) == 10
    fed = [column for entry in catalog().values() for column in entry.columns]
    assert sorted(fed) == sorted(columns)


def test_the_papers_figures() -> None:
    assert list(paper().figures) == list(PRESETS)
    row = [15.60, 55.48, 92.35, 87.1, 22.76, 47.33, 1.01, 1.06, 26.37, 55.72]
    assert list(paper().figures["gpt2-medium"].values()) == row
    assert figure("wikitext103", "345M") == figure("wikitext103", "gpt2-medium") == 26.37
    assert figure("1bw", "762M") == 44.575
    assert figure("ptb", "a model of mine") is None
    # CBT's are multiples of 1/2000, LAMBADA's accuracies of 1/5153: a wrong digit would hardly be.
    for row_of in paper().figures.values():
        for name, parts in (("cbt-cn", 2000), ("cbt-ne", 2000), ("lambada-acc", 5153)):
            count = round(row_of[name] / 100 * parts)
            assert f"{100 * count / parts:.2f}" == f"{row_of[name]:.2f}"


def test_a_table_that_is_not_whole_is_refused() -> None:
    text = "columns:\n  ptb: {title: PTB, metric: perplexity, higher_is_better: false}\nrows:\n  gpt2: [1.0, 2.0]\n"
    with pytest.raises(GPT2JaxError, match=r"rows.gpt2: 2 figures: should be 1, one a column"):
        paper_module.parse(text + "reproductions: []\n", "t.yaml")
    with pytest.raises(GPT2JaxError, match=r"rows.gpt3: unknown \(nearest: gpt2\)"):
        paper_module.parse(text.replace("gpt2:", "gpt3:") + "reproductions: []\n", "t.yaml")
    with pytest.raises(GPT2JaxError, match=r"column: 'wikitext': not in the paper's table \(nearest: wikitext2\)"):
        figure("wikitext", "gpt2")


def test_what_is_known_of_files_is_what_the_notes_say() -> None:
    known = {name: (entry.contents.size, entry.contents.lines, entry.units) for name, entry in catalog().items()}
    assert known["wikitext2"] == (1_256_449, 4358, 245_569)
    assert known["wikitext103"] == (1_281_077, 4358, 245_569)
    assert known["ptb"] == (449_945, 3761, 82_430)
    assert known["lambada"] == (1_819_752, 5153, 5153)
    hashes = [entry.contents.sha256 for entry in catalog().values() if entry.contents.sha256]
    assert len(set(hashes)) == len(hashes)


def test_every_release_can_be_told_from_others() -> None:
    """No name means two data sets, but in an archive that holds both or where its hash decides."""
    seen: dict[str, list[str]] = {}
    for entry in catalog().values():
        for release in entry.releases:
            for name in release.names:
                seen.setdefault(name, []).append(entry.name)
    shared = {name: entries for name, entries in seen.items() if len(entries) > 1}
    assert set(shared) == {"./wiki.test.tokens", "CBTest.tgz"}
    assert all(catalog()[name].contents.sha256 for name in shared["./wiki.test.tokens"])


def test_downloads_have_names_that_are_found() -> None:
    for entry in catalog().values():
        release = entry.public
        if release is None:
            continue
        ends = [name.removeprefix("./") for name in release.names]
        assert any(release.target.endswith(end) for end in ends), entry.name
        assert all(re.match(r"https?://", url) for url in release.urls)
    assert dataset("ptb").public is None  # The LDC's.


def test_groups_and_names() -> None:
    assert [entry.name for entry in members("winobias")] == [
        "winobias-pro1",
        "winobias-anti1",
        "winobias-pro2",
        "winobias-anti2",
    ]
    assert [entry.name for entry in members("ptb")] == ["ptb"]
    with pytest.raises(GPT2JaxError, match=r"data set: 'wikitxt2': unknown \(nearest: wikitext2\)"):
        dataset("wikitxt2")
    with pytest.raises(GPT2JaxError, match="is several files: winobias-pro1, "):
        dataset("winobias")


ENTRY = """
mine:
  title: Mine
  licence: not stated
  unit: words
  releases:
    - names: [mine.txt]
  elsewhere: https://example.org
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("unit: words", "unit: wrods", r"mine.unit: 'wrods': unknown \(nearest: words\)"),
        ("names: [mine.txt]", "names: [mine.txt]\n      form: zip", "an archive, and nothing else, has a member"),
        (
            "names: [mine.txt]",
            "names: [mine.txt]\n      restore: lines",
            "a Parquet file, and nothing else, is restored",
        ),
        ("names: [mine.txt]", "names: []", r"releases.0.names"),
        ("names: [mine.txt]", "names: [mine.txt]\n      urls: [ftp://x]", "urls"),
        ("title: Mine", "titel: Mine", "data set.title: .*required"),
        ("title: Mine", "title: Mine\n  akin: [yours]", "mine.akin: 'yours': unknown"),
        ("title: Mine", "title: Mine\n  contents: {sha256: ABC}", "sha256"),
    ],
)
def test_a_wrong_entry_is_one_line(old: str, new: str, message: str) -> None:
    assert module.parse(ENTRY, "c.yaml")["mine"].file_names == ("mine.txt",)
    with pytest.raises(GPT2JaxError, match=message) as caught:
        module.parse(ENTRY.replace(old, new), "c.yaml")
    assert "\n" not in str(caught.value)
