"""The real download code against a small server on this machine: right files, wrong files, no files."""

from __future__ import annotations

import hashlib
import io
import logging
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from lossmith.errors import DataMissingError, UnknownNameError
from lossmith.tasks.datasets import SOURCES, catalogue, fetch

MNIST = [download.remote for download in SOURCES["mnist"].downloads]


@dataclass
class Server:
    """What is served by name, what is cut short, and what was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def digests(self) -> dict[str, str]:
        return {name: f"sha256:{hashlib.sha256(body).hexdigest()}" for name, body in self.files.items()}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            state.asked.append(name)
            if name not in state.files:
                self.send_error(404)
                return
            body = state.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if name in state.cut else body)

        def log_message(self, *args: object) -> None:
            pass

    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_address[1]}/mirror"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOSSMITH_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def test_a_data_set_of_several_files(server: Server, tmp_path: Path) -> None:
    server.files = {name: name.encode() * 1000 for name in MNIST}
    folder = fetch("mnist", tmp_path / "data", base_url=server.url, digests=server.digests())
    assert folder == tmp_path / "data" / "mnist"
    assert {name: (folder / name).read_bytes() for name in tree(folder)} == server.files
    assert next(e.found for e in catalogue(tmp_path / "data") if e.name == "mnist") == str(folder)
    server.asked.clear()
    fetch("mnist", tmp_path / "data", base_url=server.url + "/", digests=server.digests())
    assert server.asked == [], "files that are there are left alone"


def test_a_wrong_digest_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.files = {name: b"not the real thing" for name in MNIST}
    with pytest.raises(DataMissingError, match=r"train-images-idx3-ubyte\.gz arrived with a wrong digest") as caught:
        fetch("mnist", tmp_path / "data", base_url=server.url)  # the built-in digests
    assert SOURCES["mnist"].downloads[0].digest.partition(":")[2] in str(caught.value)
    assert hashlib.sha256(b"not the real thing").hexdigest() in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_md5_digests_are_understood(server: Server, tmp_path: Path) -> None:
    server.files = {"5976036": b"housing"}
    md5 = {"5976036": "md5:" + hashlib.md5(b"housing").hexdigest()}
    folder = fetch("california", tmp_path, base_url=server.url, digests=md5)
    assert folder is not None
    assert tree(folder) == ["cal_housing.tgz"]
    with pytest.raises(DataMissingError, match="wrong digest"):
        fetch("california", tmp_path / "other", base_url=server.url, digests={"5976036": "md5:" + 32 * "0"})


def test_a_file_the_home_lacks(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=rf"{server.url}/train-images.* \(404 Not Found\).*LOSSMITH_DATA"):
        fetch("mnist", tmp_path / "data", base_url=server.url)
    assert not (tmp_path / "data").exists()


def test_an_interrupted_download_goes_on_with_what_is_missing(server: Server, tmp_path: Path) -> None:
    server.files = {name: name.encode() * 1000 for name in MNIST}
    server.cut = {MNIST[2]}
    with pytest.raises(DataMissingError, match=MNIST[2]):
        fetch("mnist", tmp_path, base_url=server.url, digests=server.digests())
    assert tree(tmp_path / "mnist") == sorted(MNIST[:2]), "whole files or none"
    server.cut.clear()
    server.asked.clear()
    fetch("mnist", tmp_path, base_url=server.url, digests=server.digests())
    assert server.asked == MNIST[2:]
    assert tree(tmp_path / "mnist") == sorted(MNIST)


def test_ctrl_c_leaves_nothing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files = {name: name.encode() * 1000 for name in MNIST}

    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.core, "hash_matches", interrupt)  # the data has arrived, its digest is being taken
    with pytest.raises(KeyboardInterrupt):
        fetch("mnist", tmp_path / "data", base_url=server.url, digests=server.digests())
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_archive_is_taken_apart(name: str, server: Server, tmp_path: Path) -> None:
    (download,) = SOURCES[name].downloads
    wanted = {member: member.encode() for member in download.members}
    server.files[download.remote] = archive({**wanted, "../outside": b"!", "readme.html": b"not needed"})
    folder = fetch(name, tmp_path / "data", base_url=server.url, digests=server.digests())
    assert folder is not None
    assert {path: (folder / path).read_bytes() for path in tree(folder)} == wanted
    assert tree(tmp_path) == sorted(f"data/{name}/{member}" for member in wanted)
    (folder / download.members[0]).unlink()
    fetch(name, tmp_path / "data", base_url=server.url, digests=server.digests())
    assert tree(folder) == sorted(wanted)


@pytest.mark.parametrize("body", [archive({"cifar-10-batches-bin/data_batch_1.bin": b"1"}), b"no archive"])
def test_another_archive_leaves_nothing(body: bytes, server: Server, tmp_path: Path) -> None:
    server.files["cifar-10-binary.tar.gz"] = body
    with pytest.raises(DataMissingError, match=r"cifar-10-binary\.tar\.gz is not the expected archive"):
        fetch("cifar10", tmp_path / "data", base_url=server.url, digests=server.digests())
    assert not (tmp_path / "data").exists()


def test_a_member_that_is_a_link_is_refused(server: Server, tmp_path: Path) -> None:
    (download,) = SOURCES["cifar100"].downloads
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in download.members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
            tar.addfile(info)
    server.files[download.remote] = buffer.getvalue()
    with pytest.raises(DataMissingError, match="not the expected archive"):
        fetch("cifar100", tmp_path / "data", base_url=server.url, digests=server.digests())
    assert not (tmp_path / "data").exists()


def test_another_accepted_file_makes_a_download_needless(server: Server, tmp_path: Path) -> None:
    (tmp_path / "california").mkdir()
    (tmp_path / "california" / "cal_housing.csv").write_text("mine")
    fetch("california", tmp_path, base_url=server.url)
    assert server.asked == []
    assert tree(tmp_path) == ["california/cal_housing.csv"]


def test_where_it_goes_without_a_folder(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files = {"5976036": b"housing"}
    assert fetch("california", base_url=server.url, digests=server.digests()) == tmp_path / "cache/lossmith/california"
    monkeypatch.setenv("LOSSMITH_DATA", str(tmp_path / "variable"))
    assert fetch("california", base_url=server.url, digests=server.digests()) == tmp_path / "variable/california"


def test_nobody_answers(tmp_path: Path, server: Server) -> None:
    with pytest.raises(DataMissingError, match=r"cannot be downloaded .*Connection"):
        fetch("mnist", tmp_path / "data", base_url="http://127.0.0.1:1/")
    assert not (tmp_path / "data").exists()


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataMissingError, match=r"cannot write to .*--data-dir"):
        fetch("mnist", tmp_path / "file", base_url=server.url)
    assert server.asked == []


def test_progress_is_drawn_on_standard_error(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    server.files = {"5976036": b"housing" * 10_000}
    level = pooch.get_logger().level
    fetch("california", tmp_path / "a", base_url=server.url, digests=server.digests(), progress=True)
    shown = capsys.readouterr()
    assert "5976036" in shown.err
    assert "70.0/70.0 kB" in shown.err
    assert shown.out == ""
    fetch("california", tmp_path / "b", base_url=server.url, digests=server.digests())
    assert capsys.readouterr().err == ""
    assert pooch.get_logger().level == level
    assert not [r for r in caplog.records if r.levelno < logging.WARNING and "pooch" in r.name]


def test_bundled_and_unknown_data_sets(tmp_path: Path) -> None:
    assert fetch("digits", tmp_path) is None
    assert tree(tmp_path) == []
    with pytest.raises(UnknownNameError, match="'mnist'"):
        fetch("mnits", tmp_path)


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if source.downloads])
def test_every_source_is_complete(name: str) -> None:
    source = SOURCES[name]
    products = [product for download in source.downloads for product in download.products]
    assert products == [names[0] for names in source.files], "what is downloaded is what is read"
    assert all(len(download.digest) == len("sha256:") + 64 for download in source.downloads)
    assert source.base_url.endswith("/")
