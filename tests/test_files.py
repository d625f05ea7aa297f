"""A file is there whole or as it was."""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import new_file, new_folder, refuse_occupied, write_text


def test_text_replaces_what_was_there_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old\r\n")
    write_text(path, "new é\n")
    assert path.read_bytes() == "new é\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half of it \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _write_half(opened: AbstractContextManager[Path], error: BaseException) -> None:
    with opened as partial:
        (partial / "a" if partial.is_dir() else partial).write_text("half")
        raise error


def test_a_new_file_or_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    with new_folder(folder) as partial:
        (partial / "a").write_text("1")
        assert not folder.exists()
    assert (folder / "a").read_text() == "1"
    for make in (new_file, new_folder):
        for error, shown in ((KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "disk full"), GPT2JaxError)):
            with pytest.raises(shown, match=r"other: cannot be written \(disk full\)|^$"):
                _write_half(make(tmp_path / "deep" / "other"), error)
    assert list((tmp_path / "deep").iterdir()) == [folder]


def test_what_is_there_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GPT2JaxError, match="give a new name"):  # A folder cannot be replaced under its user's feet.
        refuse_occupied(Path())
    refuse_occupied(tmp_path / "new")
    refuse_occupied(tmp_path)
    (tmp_path / "a").write_text("1")
    for path in (tmp_path, tmp_path / "a"):
        with pytest.raises(GPT2JaxError, match="exists"):
            refuse_occupied(path)
