"""Adapters of strangers: whatever does not fit is refused with both values, before the model is touched."""

import copy
import json
import random
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load, load_file
from torch import Tensor, nn

import karst_bench
from karst_bench import UserError
from karst_bench.adapt.adapter_file import adapter_parts, read_adapter_header
from karst_bench.adapt.attach import adapted_model
from karst_bench.tensors_file import to_safetensors

LENGTH = 8


@lru_cache
def _net(depth: int = 1, width: int = 32, seed: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=width, depth=depth, num_heads=2,
                                 num_classes=3).eval()  # fmt: skip


def fresh(**changes: int) -> nn.Module:
    return copy.deepcopy(_net(**changes))


@lru_cache
def _image(method: str, values: tuple[tuple[str, Any], ...] = ()) -> tuple[bytes, bytes]:
    """(the file of a trained adapter, the logits' bytes)."""
    net = karst_bench.attach(fresh(), method, seed=0, **dict(values))
    with torch.no_grad():
        for number, p in enumerate(adapted_model(net).trained().values()):
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
    return to_safetensors(*adapter_parts(net)), logits(net)


@torch.no_grad()
def logits(net: nn.Module) -> bytes:
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    return net(x).numpy().tobytes()


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(image: bytes) -> Path:
        (tmp_path / "a.safetensors").write_bytes(image)
        return tmp_path / "a.safetensors"

    return write


def opened(image: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, texts) of a file."""
    end = LENGTH + int.from_bytes(image[:LENGTH], "little")
    return load(image), json.loads(image[LENGTH:end])["__metadata__"]


def changed(image: bytes, *, tensors: dict[str, Any] | None = None, unhashed: bool = True, **texts: Any) -> bytes:
    """The file with other tensors (None leaves one out) and texts, as whoever forges it would write it."""
    found, about = opened(image)
    found = {name: t for name, t in (found | (tensors or {})).items() if t is not None}
    about = {key: text for key, text in (about | texts).items() if text is not None}
    if unhashed:
        about.pop("content_sha256", None)
    return to_safetensors(found, about)


def with_spec(image: bytes, node: str = "method", **values: Any) -> bytes:
    spec = json.loads(opened(image)[1]["spec"])
    spec[node] |= values
    return changed(image, spec=json.dumps(spec))


def refused(path: Path, *words: str, net: nn.Module | None = None, **options: Any) -> None:
    """Not loaded, the model is as it was, and a method can be attached to it."""
    net = fresh() if net is None else net
    before = {name: t.clone() for name, t in net.state_dict().items()}
    flags = [p.requires_grad for p in net.parameters()]
    with pytest.raises(UserError) as caught:
        karst_bench.load_adapter(net, path, **options)
    assert all(word in str(caught.value) for word in (path.name, *words)), caught.value
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert flags == [p.requires_grad for p in net.parameters()]
    assert not hasattr(net, "_adapted_model")


REFUSALS: dict[str, tuple[Callable[[bytes], bytes], tuple[str, ...]]] = {
    "another version": (lambda b: changed(b, format="karst_bench-adapter-9"), ("adapter-9", "adapter-1")),
    "no settings": (lambda b: changed(b, spec="{}"), ("spec",)),
    "settings that are no JSON": (lambda b: changed(b, spec="{"), ("spec",)),
    "a class of elsewhere": (lambda b: with_spec(b, _target_="os.system"), ("os.system",)),
    "the interface as a method": (lambda b: with_spec(b, _target_="karst_bench.methods.base.Method"), ()),
    "an unknown key": (lambda b: with_spec(b, colour=3), ("colour",)),
    "a word for a number": (lambda b: with_spec(b, r="8"), ("method.r",)),
    "a rank of 2e8": (lambda b: with_spec(b, r=200_000_000), ("trained parameters",)),
    "another rank": (lambda b: with_spec(b, r=1), ("shape",)),
    "a missing tensor": (lambda b: changed(b, tensors={"head.bias": None}), ("head.bias", "missing")),
    "one tensor more": (lambda b: changed(b, tensors={"extra": torch.zeros(2)}), ("extra", "unknown")),
    "another shape": (lambda b: changed(b, tensors={"head.bias": torch.zeros(4)}), ("(4,)", "(3,)")),
    "integers": (lambda b: changed(b, tensors={"head.bias": torch.zeros(3, dtype=torch.int64)}), ("int64", "float32")),
    "NaN": (lambda b: changed(b, tensors={"head.bias": torch.full((3,), float("nan"))}), ("head.bias", "finite")),
    "an infinity": (lambda b: changed(b, tensors={"head.bias": torch.full((3,), float("inf"))}), ("finite",)),
    "no room in float32": (lambda b: changed(b, tensors={"head.bias": torch.full((3,), 1e39, dtype=torch.float64)}), ("room",)),
    "values changed later": (lambda b: changed(b, tensors={"head.bias": torch.ones(3)}, unhashed=False), ("SHA-256",)),
    "no backbone": (lambda b: changed(b, backbone="[]"), ("backbone",)),
    "half of it": (lambda b: b[: len(b) // 2], ("safetensors",)),
    "nothing": (lambda b: b"", ("safetensors",)),
    "a pickle": (lambda b: b"\x80\x04K\x01." + b, ("safetensors",)),
    "bytes behind it": (lambda b: b + b"\0" * 8, ("the file at",)),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSALS)
def test_what_does_not_fit_is_refused_and_changes_nothing(what: str, written) -> None:
    damage, words = REFUSALS[what]
    refused(written(damage(_image("lora", (("r", 2),))[0])), *words)


def test_a_count_of_kernels_that_no_memory_holds_is_refused_before_anything_is_made(written) -> None:
    image = _image("karst", (("N", 1), ("m", 4), ("r", 2)))[0]
    refused(written(with_spec(image, N=10_000_000)), "trained parameters")
    refused(written(with_spec(_image("vera")[0], r=200_000_000)), "trained parameters")


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (lambda: fresh(depth=2), ("depth 1", "2")),
        (lambda: fresh(width=64), ("(32,)", "(64,)")),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224", img_size=32, patch_size=2, window_size=4, embed_dim=8,
                                   depths=(1,), num_heads=(1,), num_classes=3), ("vit", "swin")),
        (lambda: fresh(seed=2), ("other weights", "allow_other_backbone")),
        (lambda: nn.Linear(2, 2), ("Linear",)),
    ],
)  # fmt: skip
def test_another_backbone_is_refused_with_both_names(net: Callable[[], nn.Module], words: tuple[str, ...], written) -> None:
    path, model = written(_image("lora", (("r", 2),))[0]), net()
    if isinstance(model, nn.Linear):
        with pytest.raises(UserError, match="Linear"):
            karst_bench.load_adapter(model, path)
    else:
        refused(path, *words, net=model)


def test_another_trunk_of_the_same_shape_is_one_word_away(written) -> None:
    path = written(_image("lora", (("r", 2),))[0])
    net = karst_bench.load_adapter(fresh(seed=2), path, allow_other_backbone=True)
    saved = load_file(path)
    assert all(torch.equal(t, saved[name]) for name, t in adapted_model(net).trained().items())


def test_a_trunk_is_known_in_a_narrower_precision(written) -> None:
    path = written(_image("lora", (("r", 2),))[0])
    for dtype in (torch.bfloat16, torch.float16):
        karst_bench.load_adapter(fresh().to(dtype), path)
        refused(path, "other weights", net=fresh(seed=2).to(dtype))
    narrow = karst_bench.attach(fresh().bfloat16(), "lora", r=2)
    path = karst_bench.save_adapter(narrow, path)
    refused(path, "bfloat16", "precision")


def test_weights_that_the_method_trains_are_no_part_of_the_trunk(written) -> None:
    image, expected = _image("bitfit")
    assert logits(karst_bench.load_adapter(fresh(), written(image))) == expected
    refused(written(image), "other weights", net=fresh(seed=2))


def test_files_from_before_the_hash_are_read(written) -> None:
    image, expected = _image("lora", (("r", 2),))
    old = json.loads(opened(image)[1]["backbone"])
    facts = json.dumps({key: old[key] for key in ("family", "depth", "widths")})
    path = written(changed(image, backbone=facts))
    assert logits(karst_bench.load_adapter(fresh(), path)) == expected
    assert read_adapter_header(path).backbone.weights_sha256 == {}


def test_an_attached_model_takes_an_adapter_of_its_own_settings_only(written) -> None:
    path = written(_image("lora", (("r", 2), ("s", 3.0)))[0])
    with pytest.raises(UserError, match=r"method\.s=3\.0.*method\.s=5\.0"):
        karst_bench.load_adapter(karst_bench.attach(fresh(), "lora", r=2, s=5.0), path)
    karst_bench.load_adapter(karst_bench.attach(fresh(), "lora", r=2, s=3.0), path)


def test_what_trains_is_known_by_name(tmp_path: Path) -> None:
    """torch puts other parameter objects in the old ones' place: on a conversion that cannot be made in place, for one."""
    net = karst_bench.attach(fresh(), "bitfit", also="lora", extra="rst", seed=0)
    names = adapted_model(net).trained().keys()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        net.double().float()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    assert adapted_model(net).trained().keys() == names
    saved = load_file(karst_bench.save_adapter(net, tmp_path / "a.safetensors"))
    assert saved.keys() == names | adapted_model(net).head().keys()
    karst_bench.load_adapter(fresh(), tmp_path / "a.safetensors")  # the frozen ones are the same too


def test_what_trains_and_is_not_stored_is_refused(tmp_path: Path) -> None:
    net = karst_bench.attach(fresh(), "lora")
    net.pos_embed.requires_grad_(True)
    with pytest.raises(UserError, match="pos_embed"):
        karst_bench.save_adapter(net, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def fuzzed(draw: random.Random, image: bytes) -> bytes:
    """One of the things that go wrong with files, or that a stranger tries."""
    if draw.random() < 0.5:
        image = changed(image)  # without its hash, as a stranger would write it
    end = LENGTH + int.from_bytes(image[:LENGTH], "little")
    kind = draw.randrange(7)
    if kind == 0:
        return image[: draw.randrange(len(image))]
    if kind in (1, 2):  # a byte anywhere, or in the header
        at = draw.randrange(len(image) if kind == 1 else end)
        return image[:at] + bytes([image[at] ^ (1 << draw.randrange(8))]) + image[at + 1 :]
    if kind == 3:
        at = draw.randrange(len(image))
        return image[:at] + draw.randbytes(draw.randrange(1, 40)) + image[at:]
    header = json.loads(image[LENGTH:end])
    strange = draw.choice([-1, 0, 1, 2**31, 10**30, 1e308, "", "x" * 999, None, [], {}, True, [1, 2], {"name": "lora"}, "NaN"])
    if kind == 4:  # of one tensor
        name = draw.choice([key for key in header if key != "__metadata__"])
        entry = header[name]
        entry[draw.choice(["dtype", "shape", "data_offsets"])] = draw.choice([strange, [strange, 3], "F16", [0, 4], [2, 2, 2]])
    elif kind == 5:  # of the texts
        texts = header["__metadata__"]
        key = draw.choice(sorted(texts))
        texts[key] = draw.choice([strange, "[" * 5000, '{"a":' * 300, texts[draw.choice(sorted(texts))]])
    else:  # of the settings
        spec = json.loads(header["__metadata__"]["spec"])
        node = spec[draw.choice(sorted(spec))]
        node[draw.choice([*sorted(node), "new"])] = strange
        header["__metadata__"]["spec"] = json.dumps(spec)
    text = json.dumps(header).encode()
    return len(text).to_bytes(LENGTH, "little") + text + image[end:]


def survives(count: int, seed: int, written) -> int:
    """How many of so many damaged files were refused; of the rest, those with a hash load as the whole file does."""
    draw, refusals, net = random.Random(seed), 0, fresh()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    for _ in range(count):
        image, expected = _image(*draw.choice([("lora", (("r", 2),)), ("karst", (("m", 4), ("r", 2))), ("ssf", ()), ("vera", ())]))
        path = written(fuzzed(draw, image))
        try:
            loaded = karst_bench.load_adapter(net, path)
        except UserError as error:
            refusals += 1
            assert path.name in str(error) and len(str(error)) < 2000
            continue
        if "content_sha256" in read_adapter_header(path).texts:
            assert logits(loaded) == expected, "what is accepted is the adapter that was saved"
        net = fresh()
    assert before.keys() == fresh().state_dict().keys()
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    return refusals


def test_a_hundred_damaged_adapters(written) -> None:
    assert survives(100, 0, written) > 70


@pytest.mark.slow
def test_two_thousand_damaged_adapters(written) -> None:
    assert survives(2000, 1, written) > 1400
