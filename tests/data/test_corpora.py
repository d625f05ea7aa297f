"""Sources to documents."""

import json
from pathlib import Path

import pytest

from gpt2jax.data.corpora import digest, find_sources, read_documents
from gpt2jax.errors import GPT2JaxError


def texts(*names: str | Path, text_key: str = "text") -> list[str]:
    return [document.text for document in read_documents(find_sources([str(name) for name in names]), text_key)]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def json_lines(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def test_plain_file_is_one_document_with_its_line_ends(tmp_path: Path) -> None:
    content = "one\r\ntwo\n\nthree\rüñ\N{SMILING FACE WITH OPEN MOUTH}\u2028end"
    assert texts(write(tmp_path / "a.log", content)) == [content]
    assert texts(write(tmp_path / "b.log", content.replace("\r\n", "\n"))) != [content]


def test_json_lines_are_a_document_each(tmp_path: Path) -> None:
    # U+2028 ends a line for str.splitlines, and raw it is allowed inside JSON.
    lines = json_lines({"text": "one\r\ntwo"}, {"text": ""}, {"id": 3}) + '\n{"body": "x", "text": "a\u2028b"}\r\n'
    path = write(tmp_path / "a.jsonl", lines.replace('{"id": 3}\n', ""))
    assert texts(path) == ["one\r\ntwo", "a\u2028b"]
    assert texts(write(tmp_path / "b.jsonl", json_lines({"text": "no", "body": "yes"})), text_key="body") == ["yes"]


def test_folder_is_its_files_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b/z.txt", "a.txt", "b.md", "b/c/y.JSONL", "skip.bin", "b/.skip"):
        write(tmp_path / name, json_lines({"text": name}) if name.endswith("JSONL") else name)
    assert texts(tmp_path) == ["a.txt", "b/c/y.JSONL", "b/z.txt", "b.md"]
    assert texts(tmp_path / "b", tmp_path / "a.txt") == ["b/c/y.JSONL", "b/z.txt", "a.txt"]


def test_sizes_are_known_before_and_add_up(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", json_lines({"text": "ü"}, {"text": "b", "more": 1}))
    write(tmp_path / "b.txt", "üüü")
    sources = find_sources([str(tmp_path), "pydoc"])
    read = sum(document.source_bytes for document in read_documents(sources))
    assert read == sum(source.size for source in sources)
    assert sources[1].size == 6


def test_pydoc_is_in_every_python() -> None:
    from pydoc_data.topics import topics

    documents = texts("pydoc")
    assert documents == [topics[name] for name in sorted(topics)]
    assert len(documents) > 70
    assert sum(map(len, documents)) > 400_000


def test_digest_is_of_the_contents(tmp_path: Path) -> None:
    a, b, c = (write(tmp_path / name, text) for name, text in (("a.txt", "same"), ("b.txt", "same"), ("c.txt", "Same")))
    digests = [digest(source) for source in find_sources([str(a), str(b), str(c), "pydoc"])]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json_lines({"text": "good"}) + "bad\n")
    documents = read_documents(find_sources([str(path)]))
    assert next(documents).text == "good"
    with pytest.raises(GPT2JaxError, match="not JSON"):
        next(documents)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl: line 2: not JSON"),
        ("a.jsonl", b'{"text": "x"}\n\n["text"]\n', r"a\.jsonl: line 3: list: should be an object"),
        ("a.jsonl", b'{"body": "x", "id": 1}\n', r"line 1: no key 'text' \(keys: 'body', 'id'\).*--text-key"),
        ("a.jsonl", b'{"text": 7}\n', r"line 1: 'text': int: should be a string"),
        ("a.jsonl", b'{"text": "a\\ud800"}\n', r"line 1: 'text': '\\ud800' at character 1: not a character"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', r"a\.jsonl: byte 24: not UTF-8"),
        ("a.txt", b"abc\xe2\x82", r"a\.txt: byte 3: not UTF-8"),
        ("a.txt", b"", r"a\.txt: hold no text"),
        ("a.jsonl", b'{"text": ""}\n\n', r"a\.jsonl: hold no text"),
    ],
)
def test_what_is_no_corpus_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(GPT2JaxError, match=message) as caught:
        texts(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(GPT2JaxError, match=r"nowhere: no such file or folder.*pydoc"):
        texts(tmp_path / "nowhere")
    with pytest.raises(GPT2JaxError, match=r"no text in this folder: should hold \.jsonl, \.md, \.txt"):
        texts(write(tmp_path / "folder" / "a.bin", "x").parent)
    with pytest.raises(GPT2JaxError, match="sources: none given"):
        texts()
