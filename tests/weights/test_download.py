"""Downloads from a server of our own that misbehaves in every way that a real one has."""

import hashlib
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt2jax import fetch as core
from gpt2jax.cli import main
from gpt2jax.errors import GPT2JaxError
from gpt2jax.weights import download as module
from gpt2jax.weights import released
from gpt2jax.weights.download import cached, download
from gpt2jax.weights.released import RemoteFile
from gpt2jax.weights.sources import load, open_weights
from tests.server import Server, serving
from tests.weights.helpers import FIXTURES, GOLDEN, params_of, reference, same


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """Serves the golden model as OpenAI's gpt2, which is small then, and nothing waits."""
    monkeypatch.setenv("GPT2JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(core.time, "sleep", lambda seconds: None)
    with serving() as server:
        sources = sorted(path for path in (FIXTURES / "openai_tf_tiny").iterdir() if path.suffix != ".npz")
        files = []
        for path in sources:
            body = path.read_bytes()
            server.files[f"/124M/{path.name}"] = body
            digest = hashlib.md5(body).hexdigest() if "data" in path.name else None
            files.append(RemoteFile(path.name, f"124M/{path.name}", len(body), md5=digest))
        monkeypatch.setattr(module, "files", lambda preset, publisher: files)
        yield server


DATA = "model.ckpt.data-00000-of-00001"


def fetch(server: Server, folder: Path, *faults: str) -> Path:
    """Download all but the data file in peace, then that one with ``faults``."""
    for name in ("checkpoint", "hparams.json", "model.ckpt.index"):
        (folder / "openai" / "gpt2").mkdir(parents=True, exist_ok=True)
        (folder / "openai" / "gpt2" / name).write_bytes(server.files[f"/124M/{name}"])
    server.faults = list(faults)
    return download("gpt2", folder=folder, mirror=server.url, progress=False)


def refusal(server: Server, folder: Path, *faults: str) -> str:
    """The line of a download that fails, which leaves no file under the data file's name."""
    with pytest.raises(GPT2JaxError) as caught:
        fetch(server, folder, *faults)
    line = str(caught.value)
    assert "\n" not in line
    assert not (folder / "openai" / "gpt2" / DATA).exists()
    return line


def test_a_model_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    folder = download("124M", folder=tmp_path, mirror=server.url, progress=False)
    assert folder == tmp_path / "openai" / "gpt2"
    assert {path.name for path in folder.iterdir()} == {path.removeprefix("/124M/") for path in server.files}
    assert same(params_of(folder), params_of(FIXTURES / "openai_tf_tiny"))
    count = len(server.requests)
    assert download("gpt2", folder=tmp_path, mirror=server.url) == folder
    assert cached("gpt2", folder=tmp_path) == folder
    assert cached("gpt2", "huggingface", folder=tmp_path) is None
    assert len(server.requests) == count


def test_a_broken_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    size = len(server.files[f"/124M/{DATA}"])
    fetch(server, tmp_path, "cut", "cut")
    asked = [range_ for path, range_ in server.requests if path.endswith(DATA)]
    assert asked == [None, f"bytes={size // 2}-", f"bytes={size // 2 + (size - size // 2) // 2}-"]
    assert (tmp_path / "openai" / "gpt2" / DATA).read_bytes() == server.files[f"/124M/{DATA}"]
    assert not list((tmp_path / "openai" / "gpt2").glob("*.partial*"))


def test_a_later_run_goes_on_too(server: Server, tmp_path: Path) -> None:
    line = refusal(server, tmp_path, "cut", "500", "503")
    assert "503" in line
    assert "(3 attempts); run it again to go on from there" in line
    server.requests.clear()
    fetch(server, tmp_path)
    assert [range_ for _, range_ in server.requests] == [f"bytes={len(server.files[f'/124M/{DATA}']) // 2}-"]


def test_a_file_that_changed_meanwhile_is_taken_from_its_start(server: Server, tmp_path: Path) -> None:
    refusal(server, tmp_path, "cut", "500", "500")
    old = server.files[f"/124M/{DATA}"]
    server.files[f"/124M/{DATA}"] = bytes(reversed(old))
    assert "md5" in refusal(server, tmp_path)  # Whole, and not the file that is known.
    server.files[f"/124M/{DATA}"] = old
    fetch(server, tmp_path)
    assert (tmp_path / "openai" / "gpt2" / DATA).read_bytes() == old


def test_a_page_to_log_in_costs_nothing_that_was_fetched(server: Server, tmp_path: Path) -> None:
    assert "web page" in refusal(server, tmp_path, "cut", "page")
    server.requests.clear()
    fetch(server, tmp_path)
    assert [range_ for _, range_ in server.requests] == [f"bytes={len(server.files[f'/124M/{DATA}']) // 2}-"]


def test_two_downloads_at_once_become_one(server: Server, tmp_path: Path) -> None:
    def work() -> None:
        download("gpt2", folder=tmp_path, mirror=server.url, progress=False)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path for path, _ in server.requests) == sorted(server.files)
    assert same(params_of(tmp_path / "openai" / "gpt2"), params_of(FIXTURES / "openai_tf_tiny"))


@pytest.mark.parametrize("fault", ["whole again", "wrong range"])
def test_a_server_that_does_not_resume_is_no_harm(server: Server, tmp_path: Path, fault: str) -> None:
    fetch(server, tmp_path, "cut", fault)
    assert (tmp_path / "openai" / "gpt2" / DATA).read_bytes() == server.files[f"/124M/{DATA}"]


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (["page"], "the server sent a web page instead of the file"),
        (["hidden page"], "55 bytes: should be 178,816"),
        (["short"], "178,815 bytes: should be 178,816"),
        (["other bytes"], "md5 "),
        (["404"], "the server answered 404"),
        (["403"], "the server answered 403"),
        (["500", "500", "500"], "the server answered 500 Internal Server Error (3 attempts)"),
        (["cut", "500", "500"], "run it again to go on from there"),
        # What has been fetched outlives an answer that is not the file.
        (["cut", "404"], "the server answered 404 Not Found (2 attempts); run it again"),
        (["cut", "429", "408"], "the server answered 408 Request Timeout (3 attempts); run it again"),
    ],
)
def test_what_is_not_the_file_is_one_line_and_no_file(
    server: Server, tmp_path: Path, faults: list[str], message: str
) -> None:
    line = refusal(server, tmp_path, *faults)
    assert f"{server.url}/124M/{DATA}: " in line
    assert message in line
    kept = bool(list((tmp_path / "openai" / "gpt2").glob("*.partial")))
    assert kept == ("run it again" in line)
    fetch(server, tmp_path)  # Whatever it was has left nothing that spoils the next try.
    load(tmp_path / "openai" / "gpt2")


def test_a_page_is_known_where_nothing_else_is(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No size, no hash, no content type that gives it away, no length."""
    monkeypatch.setattr(module, "files", lambda preset, publisher: [RemoteFile("a", "124M/checkpoint")])
    server.faults = ["hidden page"]
    with pytest.raises(GPT2JaxError, match="web page instead of the file"):
        download("gpt2", folder=tmp_path, mirror=server.url, progress=False)
    for fault in ("no length", "odd length"):
        server.faults = [fault]
        with pytest.raises(GPT2JaxError, match="does not say how long the file is"):
            download("gpt2", folder=tmp_path, mirror=server.url, progress=False)
    folder = download("gpt2", folder=tmp_path, mirror=server.url, progress=False)
    assert (folder / "a").read_bytes() == server.files["/124M/checkpoint"]


def test_hugging_faces_hash_is_read_from_its_redirect(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "files", lambda preset, publisher: [RemoteFile("a", "124M/checkpoint")])
    for spelling in ("redirect", "REDIRECT"):
        server.faults = [spelling, "other bytes"]
        with pytest.raises(GPT2JaxError, match=r"sha256 .*: should be "):
            download("gpt2", "huggingface", folder=tmp_path, mirror=server.url, progress=False)
    server.faults = ["redirect"]
    folder = download("gpt2", "huggingface", folder=tmp_path, mirror=server.url, progress=False)
    assert folder == tmp_path / "huggingface" / "gpt2"


def test_no_space_is_found_before_the_first_byte(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert "needs 178,816 bytes of disk: 1,000 are free" in refusal(server, tmp_path)
    assert not list((tmp_path / "openai" / "gpt2").glob("*.partial"))


def test_a_disk_that_fills_up_meanwhile_is_left_clean(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def write(self, _: bytes) -> int:
            raise OSError(28, "No space left on device")

        flush = write

    write = core._Download._write
    monkeypatch.setattr(core._Download, "_write", lambda self, out, chunk: write(self, Full(), chunk))  # type: ignore[arg-type]
    assert "cannot be written (No space left on device)" in refusal(server, tmp_path)
    assert not list((tmp_path / "openai" / "gpt2").glob("*.partial*"))


def test_no_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("no_proxy", "*")

    def resolve(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(GPT2JaxError, match=r"refused\] \(3 attempts\)$|refused \(3 attempts\)$"):
        download("gpt2", folder=tmp_path, mirror="http://127.0.0.1:9", progress=False)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(GPT2JaxError, match=r"Name or service not known; is there a network\? \(3 attempts\)$"):
        download("gpt2", folder=tmp_path, mirror="http://example.invalid", progress=False)
    for mirror in ("example.org", "ftp://example.org"):
        with pytest.raises(GPT2JaxError, match=r"should begin with http:// or https://"):
            download("gpt2", folder=tmp_path, mirror=mirror, progress=False)
    with pytest.raises(GPT2JaxError, match="not an address"):
        download("gpt2", folder=tmp_path, mirror="http://[bad", progress=False)
    assert not list(tmp_path.rglob("*.partial"))


def test_offline_nothing_is_asked(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GPT2JaxError, match="downloads are off"):
        download("gpt2", folder=tmp_path, mirror=server.url, offline=True)
    monkeypatch.setenv("GPT2JAX_OFFLINE", "1")
    with pytest.raises(GPT2JaxError, match="downloads are off"):
        download("gpt2", folder=tmp_path, mirror=server.url)
    assert server.requests == []


def test_the_command_and_names_as_sources(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPT2JAX_MIRROR_OPENAI", server.url)
    monkeypatch.chdir(tmp_path)
    wanted = tmp_path / "cache" / "weights" / "openai" / "gpt2"
    assert main(["download", "124M"]) == 0
    assert capsys.readouterr().out == f"{wanted}\n"
    count = len(server.requests)
    assert open_weights("gpt2").origin.where == str(wanted)
    assert main(["download", "gpt2", "--offline"]) == 0
    assert main(["convert", "gpt2", "out", "--to", "huggingface"]) == 0
    assert len(server.requests) == count
    assert main(["download", "gpt-2"]) == 2
    assert "model: 'gpt-2': unknown (nearest: gpt2)" in capsys.readouterr().err
    assert main(["download", "gpt2", "--folder", "elsewhere", "--mirror", f"{server.url}/"]) == 0
    assert (tmp_path / "elsewhere" / "openai" / "gpt2" / DATA).exists()


def test_a_path_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").symlink_to(GOLDEN / "safetensors")
    assert same(params_of(Path("gpt2")), reference())


def test_the_released_files_are_where_they_were_published() -> None:
    assert released.BASES["openai"] + "/" + released.files("gpt2-medium", "openai")[-1].path == (
        "https://openaipublic.blob.core.windows.net/gpt-2/models/355M/model.ckpt.data-00000-of-00001"
    )
    assert released.BASES["huggingface"] + "/" + released.files("gpt2", "huggingface")[-1].path == (
        "https://huggingface.co/openai-community/gpt2/resolve/main/model.safetensors"
    )
    for name, publisher in (("345M", None), ("openai-community/gpt2-medium", "huggingface")):
        assert released.preset_of(name) == ("gpt2-medium", publisher)
    assert released.resolve("openai-community/355M") is not None
    assert released.resolve("gpt-2") is None
    for preset in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"):
        sizes = {file.name: file.size for file in released.files(preset, "openai")}
        assert sizes["checkpoint"] == 77
        assert sizes["encoder.json"] == 1_042_301
