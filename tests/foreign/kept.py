"""Files that lie in a results folder or a cache, where others may write too: checkpoints, notes, records, tables, studies."""

import io
import json
import pickle
from pathlib import Path
from random import Random
from unittest.mock import patch

import numpy as np
import torch
import yaml
from bent import bent, odd_header, odd_json, odd_value
from kinds import ANEW, READ, TINY, Kind, Runs, Warned, places, planted, put
from PIL import Image
from safetensors.torch import load

from karst_bench.config.compose import settings_of
from karst_bench.data.cache.cache import Cache
from karst_bench.data.images import FileSource
from karst_bench.data.resize import Resize
from karst_bench.data.sources.fingerprint import images_sha256
from karst_bench.data.sources.lists import ListEntry
from karst_bench.records import checkpoint_file, forced
from karst_bench.records.lease import Leases
from karst_bench.records.store import Store
from karst_bench.run import pipeline, tuning
from karst_bench.run.lookup import memory_path, recall
from karst_bench.tensors_file import LENGTH


def checkpoints(folder: Path) -> Kind:
    """A file of a stopped run, read; the engine's own checks are `resumed runs`."""
    store, whole = Store(folder, "mini"), checkpoint_file.to_bytes({"a": torch.ones(3)}, {"at": {"epoch": 1}})

    def read(data: bytes) -> str:
        put(path := store.checkpoint_path("0" * 16), data)
        found = store.resumable("0" * 16)
        assert (found is None) != path.exists()
        return ANEW if found is None else READ

    return Kind([whole], [bent, odd_header], read)


def resumed_runs(folder: Path) -> Kind:
    """A run that finds a checkpoint with a fitting checksum and odd content: it goes on from it, or begins anew."""
    settings = settings_of([*TINY, *places(folder), "recipe.epochs=2", "checkpoint_s=0"])
    calm = pipeline.run(settings)
    store = Store(folder / "results", "mini")
    kept: list[bytes] = []
    with patch.object(Store, "_write_state", lambda _, path, tensors, meta: kept.append(checkpoint_file.to_bytes(tensors, meta))):
        store.path(calm.id).unlink()
        pipeline.run(settings)

    def read(data: bytes) -> str:
        for kind in ("runs", "failed"):
            store.path(calm.id, kind).unlink(missing_ok=True)
        put(path := store.checkpoint_path(calm.id), data)
        with Warned() as warned:
            pipeline.run(settings)
        assert store.path(calm.id).exists() and not path.exists()
        if any("done anew" in line for line in warned):
            assert store.read(calm.id).metrics == calm.metrics
            return ANEW
        return READ

    def bend(data: bytes, rng: Random) -> bytes:
        end = LENGTH + int.from_bytes(data[:LENGTH], "little")
        meta = json.loads(json.loads(data[LENGTH:end])["__metadata__"][checkpoint_file.META])
        tensors = load(data)
        if rng.random() < 0.6:
            return checkpoint_file.to_bytes(tensors, odd_value(meta, rng))
        name = rng.choice(sorted(tensors))
        odd = (torch.full_like(tensors[name], -1), tensors[name].flatten()[:1].clone(), torch.zeros(3, dtype=torch.int8), None)
        tensors[name] = rng.choice(odd)
        return checkpoint_file.to_bytes({key: t for key, t in tensors.items() if t is not None}, meta)

    return Kind(kept[-2:], [bend], read)


def pixel_caches(folder: Path) -> Kind:
    """The four files of a cache entry, one of them bent; what is read are the true pixels, whatever the entry held."""
    paths, rows = [], []
    for number in range(3):
        paths.append(folder / f"{number}.png")
        Image.effect_noise((20, 20), 90).convert("RGB").save(paths[-1])
        rows.append(ListEntry(line=number + 1, path=paths[-1].name, label=number))
    source = FileSource("set", "train", rows, lambda name: folder / name, folder / "list")
    cache, resize = Cache(folder / "cache", 1e9), Resize("vtab", 16)
    everything = torch.arange(3)
    true = cache.open(source, resize, native=False).read(everything)
    (entry,) = (path.parent for path in (folder / "cache").rglob("meta.json"))
    names = sorted(path.name for path in entry.iterdir())
    whole = pickle.dumps({name: (entry / name).read_bytes() for name in names})

    def read(data: bytes) -> str:
        for name, content in pickle.loads(data).items():
            put(entry / name, content)
        with Warned() as warned:
            found = cache.open(source, resize, native=False).read(everything)
        assert torch.equal(found.images, true.images) and torch.equal(found.aspects, true.aspects), "other pixels"
        return ANEW if warned else READ

    def bend(data: bytes, rng: Random) -> bytes:
        content = pickle.loads(data)
        name = rng.choice(names)
        content[name] = (odd_json if name == "meta.json" and rng.random() < 0.7 else bent)(content[name], rng)
        return pickle.dumps(content)

    objects = io.BytesIO()
    np.save(objects, np.array([Runs(planted(folder))], dtype=object))
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<u4", "fortran_order": False, "shape": (10**11,)})
    bad = [pickle.dumps(pickle.loads(whole) | {name: made.getvalue()}) for name in names[:2] for made in (objects, huge)]
    return Kind([whole], [bend], read, bad)


def notes_on_runs(folder: Path) -> Kind:
    """Which run a configuration is, and which pictures a set has: notes below paths.cache that save reading them."""
    settings = settings_of([*TINY, *places(folder)])
    store, calm = Store(folder / "results", "mini"), pipeline.run(settings)
    path, picture = memory_path(settings), folder / "p.png"
    Image.new("RGB", (4, 4)).save(picture)
    seen = {"p.png": picture}
    true = images_sha256(seen, folder / "cache")
    (note,) = (folder / "cache" / "images").glob("*.txt")
    text = {"id": calm.id, "files": {str(picture): [1, 2]}, "images": None}
    others = [json.dumps(text | {"images": [note.name, "0" * 64], "files": {}}).encode(), note.read_bytes()]
    whole = [path.read_bytes()]

    def bend(data: bytes, rng: Random) -> bytes:
        data = rng.choice([data, *others])
        return odd_json(data, rng) if data[:1] == b"{" and rng.random() < 0.6 else bent(data, rng)

    def read(data: bytes) -> str:
        put(path, data)
        found = recall(settings, store)
        assert found is None or found.id == calm.id
        put(note, data)
        again = images_sha256(seen, folder / "cache")
        assert again == true, "another hash than the pictures'"
        return READ if found else ANEW

    return Kind(whole, [bend], read, others)


def records(folder: Path) -> Kind:
    settings = settings_of([*TINY, *places(folder)])
    record, store = pipeline.run(settings), Store(folder / "results", "mini")
    path = store.path(record.id)
    whole = path.read_bytes()

    def read(data: bytes) -> str:
        path.write_bytes(data)
        list(store.records())
        return READ if store.find(record.id) else ANEW

    return Kind([whole], [bent, odd_json], read)


def leases(folder: Path) -> Kind:
    """Who runs what, and what a forced run has begun: one line or a little JSON each."""
    waiting, store, run_id = Leases(folder, lease_s=0.0), Store(folder, "mini"), "0" * 16
    held = waiting.acquire(run_id)
    assert held is not None
    (file,) = waiting.folder.glob("*.own")
    note = folder / "forced" / "runs" / "mini" / f"{run_id}.json"
    whole = [file.read_bytes(), json.dumps({"number": 1, "over": None}).encode()]
    held.release()

    def read(data: bytes) -> str:
        put(file, data)
        waiting.running()
        waiting.holder(run_id)
        put(note, data)
        forced.begin(store, run_id)
        return READ

    return Kind(whole, [bent, lambda data, rng: odd_json(data, rng) if data[:1] == b"{" else bent(data, rng)], read)


# Searches ----------------------------------------------------------------------------------------------------------


def tuned_tables(folder: Path) -> Kind:
    path = folder / "results" / "tuned" / "ours" / "karst.yaml"
    words = ["method=karst", "dataset=mini/digits", "tuned=ours", f"paths.results={folder}/results"]
    backbone = {"name": "vit_mini", "timm_name": "vit_tiny_patch16_224", "weights": "pretrained",
                "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 96, "depth": 8, "num_heads": 3}}  # fmt: skip
    table = {"source": "a search", "searched": [{"backbone": backbone, "provenance": {}, "values": {
        "mini/digits": {"recipe.lr": 0.001, "method.sigma": 0.5}}}], "settings": {"mini": {"recipe": "petl100"}}}  # fmt: skip

    def read(data: bytes) -> str:
        put(path, data)
        return READ if settings_of(words).tuned["values"] else ANEW

    def bend(data: bytes, rng: Random) -> bytes:
        return yaml.safe_dump(odd_value(yaml.safe_load(data), rng)).encode(errors="replace")

    laughs = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12))]).encode()
    tag = f"source: !!python/object/apply:os.system [\"touch '{planted(folder)}'\"]\n".encode()
    return Kind([yaml.safe_dump(table).encode()], [bent, bend, bend], read, [laughs, tag])


def studies(folder: Path) -> Kind:
    """Optuna's journal of a search with one finished trial and one that was broken off."""
    found = tuning.search(["method=karst", "dataset=mini/digits", f"paths.results={folder}", "recipe.epochs=2"])
    journal = found.folder / "journal.log"
    worker = tuning.Worker(found, 2)
    first = worker.study.ask(found.space)
    worker.study.tell(first, 50.0)
    worker.study.ask(found.space)
    whole = journal.read_bytes()

    def read(data: bytes) -> str:
        journal.write_bytes(data)
        again = tuning.Worker(found, 2)
        with patch.object(tuning.Worker, "_value", lambda *_: 40.0):
            again.work()
        tuning.summary(again)
        return READ

    def bend(data: bytes, rng: Random) -> bytes:
        lines = data.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = odd_json(lines[at], rng)
        return b"\n".join(lines) + b"\n"

    return Kind([whole], [bent, bend], read)
