"""Files that somebody gives: adapters, folders of peft, weights, pictures."""

import copy
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from bent import bent, odd_header, odd_json
from kinds import READ, Kind, Runs, planted, put, untouched, vit
from PIL import Image
from safetensors.torch import load, save
from torch import nn

import karst_bench
from karst_bench.adapt.adapter_file import _content_hash
from karst_bench.adapt.weights import load_weights
from karst_bench.adapt.weights_file import read_sums
from karst_bench.data.decode import any_deep, encoding_of, is_rotated, read_image
from karst_bench.tensors_file import LENGTH

# Adapters ----------------------------------------------------------------------------------------------------------


def sealed(header: dict[str, Any]) -> None:
    """The hash over values and settings made to fit again, as a stranger can; values are taken from the whole file."""
    texts = header["__metadata__"]
    texts["content_sha256"] = _content_hash(SEALED[texts["content_sha256"]], texts)


SEALED: dict[str, dict[str, torch.Tensor]] = {}


def adapters(folder: Path) -> Kind:
    net, path, whole = vit(), folder / "a.safetensors", []
    for method in ("karst", "lora_all", "vpt_deep", "bitfit", "fact_tk", "spt_lora"):
        mine = copy.deepcopy(net)
        scored = {"scoring": [(torch.ones(2, 3, 32, 32), torch.arange(2))], "budget": 900}
        more: dict[str, Any] = scored if method == "spt_lora" else {}
        karst_bench.attach(mine, method, seed=0, **more)
        whole.append(karst_bench.save_adapter(mine, path).read_bytes())
        header = json.loads(whole[-1][LENGTH : LENGTH + int.from_bytes(whole[-1][:LENGTH], "little")])
        SEALED[header["__metadata__"]["content_sha256"]] = load(whole[-1])

    def read(data: bytes) -> str:
        path.write_bytes(data)
        return untouched(lambda mine: karst_bench.load_adapter(mine, path), net)

    def bend_header(data: bytes, rng: Random) -> bytes:
        return odd_header(data, rng, sealed)

    return Kind(whole, [bent, bend_header, bend_header], read)


def peft_folders(folder: Path) -> Kind:
    """Both files of a folder, the one that is bent first."""
    net, place = vit(), folder / "peft"
    names, whole = ("adapter_config.json", "adapter_model.safetensors"), []
    for method in ("lora", "dora", "vera"):
        mine = copy.deepcopy(net)
        karst_bench.attach(mine, method, seed=0)
        karst_bench.save_peft(mine, place)
        whole.append(pickle.dumps([(place / name).read_bytes() for name in names]))

    def read(data: bytes) -> str:
        for name, content in zip(names, pickle.loads(data), strict=True):
            (place / name).write_bytes(content)
        return untouched(lambda mine: karst_bench.load_peft(mine, place), net)

    def bend(data: bytes, rng: Random) -> bytes:
        config, tensors = pickle.loads(data)
        if rng.random() < 0.7:
            return pickle.dumps([(odd_json if rng.random() < 0.8 else bent)(config, rng), tensors])
        return pickle.dumps([config, (odd_header if rng.random() < 0.5 else bent)(tensors, rng)])

    return Kind(whole, [bend], read)


# Weights ------------------------------------------------------------------------------------------------------------


def saved(state: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    return buffer.getvalue()


def weights(folder: Path) -> Kind:
    net = vit()
    return Kind([save(net.state_dict())], [bent, odd_header], _weights_reader(folder / "w.safetensors", net))


def pickled_weights(folder: Path) -> Kind:
    """What torch.save wrote, and pickles that run code: bare, in a zip, among weights, in the format of old."""
    net = vit()
    state, place = net.state_dict(), planted(folder)
    whole = [saved(state), saved({"model": state, "epoch": 3}), saved(state, _use_new_zipfile_serialization=False)]
    hostile = [Runs(place), Runs(place, by_shell=True)]
    bad = [made for runs in hostile for made in (
        pickle.dumps({"state_dict": runs}), pickle.dumps(runs, protocol=2), saved({**state, "x": runs}), saved(runs),
        saved({"model": state, "args": runs}, _use_new_zipfile_serialization=False))]  # fmt: skip
    return Kind(whole, [bent], _weights_reader(folder / "w.pth", net), bad, lambda: [_deflated(saved({"x": torch.zeros(1)}))])


def npz_weights(folder: Path) -> Kind:
    """Archives of numpy: arrays of objects are pickles, and a deflated array of zeros is a thousand times its file."""
    net, plain, objects = vit(), io.BytesIO(), io.BytesIO()
    np.savez(plain, **_under_jax_names({name: tensor.numpy() for name, tensor in net.state_dict().items()}))
    np.savez(objects, **{"embedding/kernel": np.array([Runs(planted(folder))], dtype=object)})
    return Kind([plain.getvalue()], [bent], _weights_reader(folder / "w.npz", net), [objects.getvalue()], lambda: [_npz_bomb()])


def _under_jax_names(of: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A one-block ViT of two heads as the archives of the original ViT name and shape it."""
    block, attention = "Transformer/encoderblock_0", "Transformer/encoderblock_0/MultiHeadDotProductAttention_1"
    width = len(of["norm.weight"])
    named = {
        "embedding/kernel": of["patch_embed.proj.weight"].transpose(2, 3, 1, 0), "embedding/bias": of["patch_embed.proj.bias"],
        "cls": of["cls_token"], "Transformer/posembed_input/pos_embedding": of["pos_embed"],
        f"{attention}/out/kernel": of["blocks.0.attn.proj.weight"].T.reshape(2, width // 2, width),
        f"{attention}/out/bias": of["blocks.0.attn.proj.bias"],
    }  # fmt: skip
    for ours, theirs in (("norm", "Transformer/encoder_norm"), ("blocks.0.norm1", f"{block}/LayerNorm_0"),
                         ("blocks.0.norm2", f"{block}/LayerNorm_2")):  # fmt: skip
        named |= {f"{theirs}/scale": of[f"{ours}.weight"], f"{theirs}/bias": of[f"{ours}.bias"]}
    for number in (0, 1):
        ours, theirs = f"blocks.0.mlp.fc{number + 1}", f"{block}/MlpBlock_3/Dense_{number}"
        named |= {f"{theirs}/kernel": of[f"{ours}.weight"].T, f"{theirs}/bias": of[f"{ours}.bias"]}
    for number, part in enumerate(("query", "key", "value")):
        rows = slice(number * width, (number + 1) * width)
        kernel, bias = of["blocks.0.attn.qkv.weight"][rows], of["blocks.0.attn.qkv.bias"][rows]
        named[f"{attention}/{part}/kernel"] = kernel.T.reshape(width, 2, width // 2)
        named[f"{attention}/{part}/bias"] = bias.reshape(2, -1)
    return named


def _npz_bomb() -> bytes:
    name, bomb = "embedding/kernel.npy", io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**28,)})
        for _ in range(2**10):
            file.write(bytes(2**20))
    return bomb.getvalue()


def _deflated(data: bytes) -> bytes:
    """A file of torch.save whose one storage is a gigabyte of zeros, deflated."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename.endswith("data/0"):
                content = bytes(2**30)
            new.writestr(item.filename, content)
    return out.getvalue()


def _weights_reader(path: Path, net: nn.Module) -> Callable[[bytes], str]:
    def read(data: bytes) -> str:
        path.write_bytes(data)
        return untouched(lambda mine: load_weights(mine, path), net)

    return read


def sums(folder: Path) -> Kind:
    """SHA256SUMS.json, which says what weights were when they were first seen."""
    text = json.dumps({"vit.npz": {"sha256": "0" * 64, "bytes": 3, "modified_ns": 5}}).encode()

    def read(data: bytes) -> str:
        (folder / "SHA256SUMS.json").write_bytes(data)
        read_sums(folder)
        return READ

    return Kind([text], [bent, odd_json], read)



# Pictures ----------------------------------------------------------------------------------------------------------


def pictures(folder: Path) -> Kind:
    """Of each format and depth, animated ones among them; EPS, which would start Ghostscript, and headers of a billion pixels."""
    grey, whole = Image.linear_gradient("L").resize((40, 30)), []
    forms = [("PNG", "RGB"), ("PNG", "P"), ("PNG", "RGBA"), ("PNG", "I;16"), ("PNG", "1"), ("JPEG", "RGB"), ("JPEG", "CMYK"),
             ("BMP", "RGB"), ("GIF", "P"), ("WEBP", "RGB"), ("TIFF", "RGB"), ("TIFF", "F"), ("TIFF", "I;16"), ("PPM", "RGB"),
             ("JPEG2000", "RGB"), ("ICO", "RGBA")]  # fmt: skip
    for form, mode in forms:
        image, buffer = (Image.new("I;16", (40, 30), 40_000) if mode == "I;16" else grey.convert(mode)), io.BytesIO()
        animated = {"save_all": True, "append_images": [image.rotate(9), image.rotate(90)]}
        image.save(buffer, form, **(animated if form in ("GIF", "WEBP") or (mode == "RGBA" and form == "PNG") else {}))
        whole.append(buffer.getvalue())
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\n(x) run showpage\n"
    bomb = whole[0][:16] + (40_000).to_bytes(4, "big") * 2 + whole[0][24:]
    path = folder / "p.png"
    _ghostscript(folder)

    def read(data: bytes) -> str:
        path.write_bytes(data)
        is_rotated(path), any_deep([path]), encoding_of([path])
        pixels = read_image(path)
        assert pixels.dtype == torch.uint8 and pixels.ndim == 3 and len(pixels) == 3
        return READ

    return Kind(whole, [bent], read, [eps, bomb], lambda: list(map(largest_picture, ("I;16", "RGBA", "RGB"))))


def largest_picture(mode: str) -> bytes:
    """64 million pixels of one colour, which is as much as is read: the file is small, its pixels are not."""
    image, buffer = Image.new(mode, (8000, 8000)), io.BytesIO()
    image.save(buffer, "JPEG" if mode == "RGB" else "PNG")
    return buffer.getvalue()


def _ghostscript(folder: Path) -> None:
    """A `gs` that tells when somebody starts it."""
    program = folder / "bin" / "gs"
    put(program, f"#!/bin/sh\ntouch '{planted(folder)}'\n".encode())
    program.chmod(0o755)
    os.environ["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
