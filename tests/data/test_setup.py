"""Bringing data and weights into place: downloads, few-shot lists and archives, weights by tag; and the page of sets."""

import http.server
import io
import json
import logging
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from miniatures import CONF, dataset_of, make_fewshot

import karst_bench.data.setup.fewshot as setup
import karst_bench.download as downloading
from karst_bench.adapt.fetch_weights import fetch_hub, fetch_url
from karst_bench.adapt.weights_file import SUMS, check_weights, present_weights
from karst_bench.cli.app import main
from karst_bench.download import download
from karst_bench.errors import UserError
from karst_bench.files import sha256
from scripts.docs_datasets import page

LISTS = os.environ.get("KARST_BENCH_FEWSHOT_LISTS")
DATA = bytes(range(256)) * 400


@pytest.fixture
def server() -> Iterator[tuple[str, list[str | None]]]:
    """A file server that understands Range; the ranges it was asked for."""
    asked: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            asked.append(wanted)
            first = int(wanted[6:-1]) if wanted else 0
            if self.path == "/gone" or first >= len(DATA):
                self.send_error(404 if self.path == "/gone" else 416)
                return
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(DATA) - first))
            self.end_headers()
            cut = len(DATA) // 2 if self.path == "/broken.npz" and not wanted else len(DATA)
            self.wfile.write(DATA[first:cut])

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}", asked
        found.shutdown()


def test_a_broken_download_is_continued(tmp_path: Path, server: tuple[str, list[str | None]]) -> None:
    url, asked = server
    target = tmp_path / "x" / "file.npz"
    with pytest.raises(UserError, match=r"broken off after 51200 of 102400"):
        download(f"{url}/broken.npz", target)
    assert not target.exists()
    download(f"{url}/broken.npz", target)
    assert target.read_bytes() == DATA and asked == [None, "bytes=51200-"]
    assert not list(target.parent.glob("*.part"))


def test_how_far_a_download_is(
    tmp_path: Path, server: tuple[str, list[str | None]], caplog: pytest.LogCaptureFixture
) -> None:
    """A line a tenth, of the whole file also where it is continued."""
    target = tmp_path / "file.npz"
    target.with_name("file.npz.part").write_bytes(DATA[:51200])
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO, "karst_bench"):
        patch.setattr(downloading, "STEP", 1)
        patch.setattr(downloading, "BLOCK", 1 << 12)
        download(f"{server[0]}/file.npz", target)
    assert caplog.messages == [f"file.npz: {size} kB of 102.4 kB" for size in ("63.5", "75.8", "88.1", "100.4")]


def test_a_web_page_is_not_kept(tmp_path: Path) -> None:
    """What comes with status 200 where too many have asked for a file."""
    page = tmp_path / "page"
    page.write_text("\n<!DOCTYPE html><title>Quota exceeded</title>")
    with pytest.raises(UserError, match="answers with a web page"):
        download(page.as_uri(), tmp_path / "vtab-1k.zip")
    assert list(tmp_path.iterdir()) == [page]


def test_a_whole_part_is_recognised(tmp_path: Path, server: tuple[str, list[str | None]]) -> None:
    target = tmp_path / "file.npz"
    target.with_name("file.npz.part").write_bytes(DATA)
    assert download(f"{server[0]}/file.npz", target).read_bytes() == DATA


def test_download_errors_say_what_to_do(tmp_path: Path, server: tuple[str, list[str | None]]) -> None:
    target = tmp_path / "file.npz"
    for url, said in (
        (f"{server[0]}/gone", "404"),
        ("http://127.0.0.1:9/x", "without network access, fetch it elsewhere and copy it to"),
        ((tmp_path / "none").as_uri(), "cannot be fetched"),
        ("no address", "cannot be fetched"),
    ):
        with pytest.raises(UserError, match=said):
            download(url, target)
    with pytest.raises(UserError, match="SHA-256"):
        download(f"{server[0]}/file", target, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def archive(path: Path, names: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as file:
        for name, data in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")  # of newer Pythons, where they act as an old one
@pytest.mark.parametrize("filters", [True, False], ids=["filters", "before Python 3.11.4"])
def test_archives_are_unpacked_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filters: bool) -> None:
    if not filters:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    pets = dataset_of("fewshot/pets")
    assert setup.unpack(pets, tmp_path, tmp_path) == ["images.tar.gz"]
    archive(tmp_path / "images.tar.gz", {"images/a.jpg": b"1", "images/b.jpg": b"2"})
    assert setup.unpack(pets, tmp_path, tmp_path) == []
    assert (tmp_path / "oxford-iiit-pet/images/b.jpg").read_bytes() == b"2"
    with pytest.raises(UserError, match="is there already"):
        setup.unpack(pets, tmp_path, tmp_path)
    (tmp_path / "102flowers.tgz").write_bytes((tmp_path / "images.tar.gz").read_bytes()[:60])
    with pytest.raises(UserError, match="cannot be unpacked"):
        setup.unpack(dataset_of("fewshot/flowers102"), tmp_path, tmp_path)
    assert not list((tmp_path / "flowers-102").iterdir())
    archive(tmp_path / "food-101.tar.gz", {"../outside.jpg": b"3"})
    with pytest.raises(UserError, match="cannot be unpacked"):
        setup.unpack(dataset_of("fewshot/food101"), tmp_path / "root", tmp_path)
    assert not (tmp_path / "outside.jpg").exists()
    with tarfile.open(tmp_path / "food-101.tar.gz", "w:gz") as file:
        link = tarfile.TarInfo("food-101")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        file.addfile(link)
    with pytest.raises(UserError, match="cannot be unpacked"):
        setup.unpack(dataset_of("fewshot/food101"), tmp_path / "root", tmp_path)


def test_missing_images_are_counted(tmp_path: Path) -> None:
    make_fewshot(tmp_path, "fewshot/flowers102", layout="torchvision")
    assert setup.missing_images(dataset_of("fewshot/flowers102"), tmp_path) == []
    (tmp_path / "flowers-102/jpg/val_000.jpg").unlink()
    assert setup.missing_images(dataset_of("fewshot/flowers102"), tmp_path) == ["val_000.jpg"]


def test_a_list_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    home = make_fewshot(tmp_path, "fewshot/pets")
    before = (home / "test_meta.list").read_text()
    with pytest.raises(UserError, match=r"test_meta\.list differs from the published list"):
        setup.place_lists(dataset_of("fewshot/pets"), tmp_path, str(tmp_path))
    assert (home / "test_meta.list").read_text() == before


@pytest.mark.skipif(LISTS is None, reason="KARST_BENCH_FEWSHOT_LISTS does not point to the published lists")
def test_published_lists_are_placed_and_checked(tmp_path: Path) -> None:
    pets = dataset_of("fewshot/pets")
    for _ in range(2):
        home = setup.place_lists(pets, tmp_path, LISTS)
    assert len(list(home.glob("*.list*"))) == 18 and "MIT" in (home / "SOURCE.txt").read_text()
    assert len(setup.missing_images(pets, tmp_path)) == 7349
    bad = tmp_path / "bad" / "oxford-pets" / "annotations"
    bad.mkdir(parents=True)
    (bad / "test_meta.list").write_text("a.jpg 0\n")
    with pytest.raises(UserError, match="SHA-256"):
        setup.place_lists(pets, tmp_path / "new", str(tmp_path / "bad"))


def test_the_lists_come_from_one_commit() -> None:
    assert setup.lists_url().count("/") > 5 and "e9c55f360be4f7f1133a08bf84f86f0309e98f8c" in setup.lists_url()


def test_weights_by_tag_from_an_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "ViT-B_16.npz"
    source.write_bytes(DATA)
    tag, out = "vit_base_patch16_224.orig_in21k", tmp_path / "w"

    def fetch(*words: str) -> tuple[int, str]:
        code, said = main(["weights", "fetch", f"out={out}", *words]), capsys.readouterr()
        return code, said.out + said.err

    for _ in range(2):
        code, said = fetch(tag, f"url={source.as_uri()}")
        assert code == 0
    file = out / f"{tag}.npz"
    assert json.loads((out / SUMS).read_text())[file.name]["sha256"] == sha256(file)
    assert sha256(file) in said
    assert fetch("--check")[0] == 0
    file.write_bytes(DATA[:-1])
    for words, reason in (("--check", "changed or damaged"), ("tag=vit_base_patch16_224", f"full name; did you mean {tag[:20]}"),
                          ("url=x", "no weights named")):  # fmt: skip
        code, said = fetch(words)
        assert code == 2 and reason in said
    with pytest.raises(UserError, match="must end in one of"):
        fetch_url(tag, "file:///x.zip", tmp_path)


def test_weights_from_the_hub_and_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    cached = tmp_path / "cached"
    cached.write_bytes(DATA)
    asked: list[str] = []

    def from_cache(repository: str, file: str, **_: object) -> str | None:
        return str(cached) if file == "config.json" else None

    def from_hub(repository: str, file: str, *, local_dir: Path, **_: object) -> str:
        asked.append(f"{repository}/{file}")
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / file).write_bytes(DATA)
        return str(local_dir / file)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", from_cache)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", from_hub)
    file = fetch_hub("some.tag", "timm/some.tag", tmp_path / "w", ("model.safetensors", "config.json"))
    assert asked == ["timm/some.tag/model.safetensors"] and present_weights("some.tag", tmp_path / "w") == file
    assert (tmp_path / "w/some.tag/config.json").read_bytes() == DATA
    assert check_weights(tmp_path / "w", file) == sha256(cached)
    assert "some.tag/model.safetensors" in json.loads((tmp_path / "w" / SUMS).read_text())


def test_an_unreachable_hub_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(UserError, match=r"not reachable.*copy model\.safetensors.*HF_HOME.*backbone\.weights=PATH"):
        fetch_hub("a.b", "timm/a.b", tmp_path, ("model.safetensors", "config.json"))


def test_sums_that_are_not_json(tmp_path: Path) -> None:
    (tmp_path / SUMS).write_text("{")
    (tmp_path / "a.npz").write_bytes(DATA)
    with pytest.raises(UserError, match="not JSON"):
        check_weights(tmp_path, tmp_path / "a.npz")
    with pytest.raises(UserError, match="no such weights file"):
        check_weights(tmp_path, tmp_path / "b.npz")


def test_the_page_of_sets_is_current() -> None:
    written = (CONF.parents[1] / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert written == page(), "run `python -m scripts.docs_datasets` and commit docs/datasets.md"
