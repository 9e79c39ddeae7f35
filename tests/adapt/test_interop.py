"""Adapters elsewhere: huggingface/peft both ways, programs of ONNX and torch.export, folders with a card, the hub."""

import base64
import copy
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import karst_bench
from karst_bench import UserError
from karst_bench.adapt.attach import adapted_model

LORA: dict[str, Any] = {"r": 2, "s": 1.5}
KARST: dict[str, Any] = {"N": 1, "m": 4, "r": 1, "sigma": 0.5, "qkv_mode": "fused", "extra": "none"}
TO_PEFT = [
    ("lora", LORA), ("lora", LORA | {"sites": "qkv_fused", "dropout": 0.0}), ("lora", LORA | {"sites": "all"}),
    ("dora", {"r": 2}), ("dora", {"r": 2, "sites": "all"}), ("vera", {"r": 4}),
    ("karst", KARST), ("karst", KARST | {"sites": ["proj", "fc1"], "r": 7}), ("ka", KARST | {"share_c": "kernels"}),
]  # fmt: skip
# a linear layer of Swin is written as one of ViT: one of each kind here, and the others slow
WRITTEN = [*(("vit", *given) for given in TO_PEFT), *(
    pytest.param("swin", method, hyper, marks=() if (method, hyper) in (TO_PEFT[2], TO_PEFT[5], TO_PEFT[6]) else pytest.mark.slow)
    for method, hyper in TO_PEFT)]  # fmt: skip


NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}),
    "swin": ("swin_tiny_patch4_window7_224", {"img_size": 16, "patch_size": 2, "window_size": 4, "embed_dim": 16,
                                              "depths": [1, 1], "num_heads": [1, 2]}),
}  # fmt: skip


def fresh(family: str) -> nn.Module:
    torch.manual_seed(1)
    name, arguments = NETS[family]
    return timm.create_model(name, num_classes=3, **arguments).eval()


@torch.no_grad()
def trained(family: str, method: str, **hyper: Any) -> nn.Module:
    """A model whose adapter was moved off its start."""
    net = karst_bench.attach(fresh(family), method, seed=0, **hyper)
    generator = torch.Generator().manual_seed(4)
    for p in [*adapted_model(net).trained().values(), *adapted_model(net).head().values()]:
        p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return net


@torch.no_grad()
def logits(net: nn.Module) -> Tensor:
    return net(torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(3)))


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
@pytest.mark.parametrize(("family", "method", "hyper"), WRITTEN, ids=lambda value: value if isinstance(value, str) else "")
def test_peft_computes_the_same_from_what_was_written_and_it_comes_back(family: str, method: str, hyper, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    net = trained(family, method, **hyper)
    karst_bench.save_peft(net, tmp_path / "out")
    theirs = peft.PeftModel.from_pretrained(fresh(family), str(tmp_path / "out")).eval()
    torch.testing.assert_close(logits(theirs), logits(net), atol=1e-5, rtol=0)
    if hyper.get("r") == 7:  # peft holds w2 whole at such a rank
        with pytest.raises(UserError, match="low rank"):
            karst_bench.load_peft(fresh(family), tmp_path / "out")
        return
    back = karst_bench.load_peft(fresh(family), tmp_path / "out").eval()
    torch.testing.assert_close(logits(back), logits(net), atol=1e-5, rtol=0)


def peft_config(kind: str) -> Any:
    peft = pytest.importorskip("peft")
    head = {"target_modules": ["qkv"], "modules_to_save": ["head"]}
    return {
        "lora": lambda: peft.LoraConfig(r=2, lora_alpha=5, **head),
        "rslora": lambda: peft.LoraConfig(r=4, lora_alpha=5, use_rslora=True, **head),
        "alphas": lambda: peft.LoraConfig(r=2, lora_alpha=5, alpha_pattern={"blocks.1.attn.qkv": 3}, **head),
        "all": lambda: peft.LoraConfig(r=2, lora_alpha=2, target_modules=["qkv", "proj", "fc1", "fc2"],
                                       exclude_modules=["patch_embed.proj"], modules_to_save=["head"]),
        "dora": lambda: peft.LoraConfig(r=2, lora_alpha=4, use_dora=True, **head),
        "vera": lambda: peft.VeraConfig(r=4, **head),
        "lokr": lambda: peft.LoKrConfig(r=2, alpha=3, decompose_factor=4, **head),
    }[kind]()  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
@pytest.mark.parametrize("kind", ["lora", "rslora", "alphas", "all", "dora", "vera", "lokr"])
def test_what_peft_trained_computes_the_same_here(kind: str, tmp_path: Path) -> None:
    import peft

    torch.manual_seed(2)
    theirs = peft.get_peft_model(fresh("vit"), peft_config(kind)).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape))
    theirs.save_pretrained(str(tmp_path))
    net = karst_bench.load_peft(fresh("vit"), tmp_path).eval()
    torch.testing.assert_close(logits(net), logits(theirs), atol=1e-5, rtol=0)
    karst_bench.save_adapter(net, tmp_path / "own.safetensors")  # an adapter of this suite like any other
    assert torch.equal(logits(karst_bench.load_adapter(fresh("vit"), tmp_path / "own.safetensors").eval()), logits(net))


@pytest.mark.parametrize(
    ("method", "hyper", "word"),
    [("karst", {"m": 4}, "Affine"), ("karst", {"N": 2, "m": 4, "extra": "none"}, "2 kernels"), ("adaptformer", {}, "Bottleneck"),
     ("karst", {"N": 1, "m": 4, "extra": "none"}, "3 chunks"), ("bitfit", {}, "bias"),
     ("lora", {"also": "vpt_deep"}, "DeepPrompts")],
)  # fmt: skip
def test_what_peft_has_no_form_for_is_refused_by_name(method: str, hyper, word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=word):
        karst_bench.save_peft(trained("vit", method, **hyper), tmp_path)
    assert not list(tmp_path.iterdir())


def rewritten(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def retensored(folder: Path, change: Any) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda f: rewritten(f, peft_type="IA3"), "IA3"),
        (lambda f: rewritten(f, bias="all"), "bias"),
        (lambda f: rewritten(f, fan_in_fan_out=True), "fan_in_fan_out"),
        (lambda f: rewritten(f, lora_alpha="much"), "LORA"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "configuration"),
        (lambda f: (f / "adapter_config.json").unlink(), "save_pretrained"),
        (lambda f: retensored(f, lambda t: t | {"base_model.model.blocks.9.attn.qkv.lora_A": torch.zeros(2, 32)}), "blocks.9"),
        (lambda f: retensored(f, lambda t: {k: v for k, v in t.items() if ".1." not in k}), "all or none"),
        (lambda f: retensored(f, lambda t: {k: v for k, v in t.items() if "head.bias" not in k}), "alone"),
        (lambda f: retensored(f, lambda t: {k: v * float("nan") for k, v in t.items()}), "finite"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 99), "safetensors"),
    ],
)
def test_a_damaged_or_foreign_peft_folder_is_refused_and_changes_nothing(damage: Any, word: str, tmp_path: Path) -> None:
    karst_bench.save_peft(trained("vit", "lora", **LORA, sites="qkv_fused"), tmp_path)
    damage(tmp_path)
    net = fresh("vit")
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(UserError, match=word):
        karst_bench.load_peft(net, tmp_path)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


SLOW = pytest.mark.slow
PROGRAMS = [
    pytest.param("vit", "adaptformer", False), pytest.param("vit", "karst", True, marks=SLOW),
    pytest.param("swin", "karst", True, marks=SLOW), pytest.param("swin", "convpass", False, marks=SLOW),
]  # fmt: skip


@pytest.mark.parametrize(("family", "method", "merges"), PROGRAMS)
def test_onnxruntime_computes_the_same_for_any_batch(family: str, method: str, merges: bool, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'karst_bench[export]'")
    net = trained(family, method, **({"m": 4} if method == "karst" else {}))
    if merges:
        karst_bench.merge(net)
    assert karst_bench.export(net, tmp_path / "model.onnx", format="onnx") <= 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(batch))
        found = torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])
        torch.testing.assert_close(found, net(x).detach(), atol=1e-4, rtol=0)


def test_onnx_without_its_packages_is_one_sentence(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"karst_bench\[export\]"):
        karst_bench.export(karst_bench.merge(trained("vit", "lora")), tmp_path / "m.onnx")


def test_a_program_that_computes_something_else_is_refused(monkeypatch, tmp_path: Path) -> None:
    from karst_bench.adapt import export_program

    monkeypatch.setattr(export_program, "_write_torch", lambda *_: lambda x: torch.zeros(len(x), 3))
    with pytest.raises(UserError, match="differ"):
        karst_bench.export(karst_bench.merge(trained("vit", "lora")), tmp_path / "m.pt2", format="torch")


ELSEWHERE = """
import sys
sys.modules["karst_bench"] = None  # importing it is an ImportError
import json, timm, torch
folder = sys.argv[1]
x = torch.load(f"{folder}/x.pt", weights_only=True)
found = {}
with torch.no_grad():
    for name in json.loads(sys.argv[2]):
        if name.endswith(".pt2"):
            found[name] = torch.export.load(f"{folder}/{name}").module()(x)
        else:
            found[name] = timm.create_model(f"local-dir:{folder}/{name}", pretrained=True).eval()(x)
torch.save(found, f"{folder}/found.pt")
"""


def save_merged(family: str, net: nn.Module, folder: Path) -> None:
    from karst_bench.run.commands import save_timm_folder

    name, arguments = NETS[family]
    backbone = {"timm_name": name, "model_args": arguments, "input_size": 16, "mean": [0.5] * 3, "std": [0.5] * 3}
    save_timm_folder(net, backbone, 3, folder)


def test_a_plain_folder_says_what_timm_is_to_feed_it(tmp_path: Path) -> None:
    from karst_bench.run.commands import save_timm_folder

    name, arguments = NETS["vit"]
    facts = {"input_size": 16, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    net = timm.create_model(name.partition(".")[0], num_classes=3, **arguments)
    save_timm_folder(net, {"timm_name": name, "model_args": arguments, **facts}, 3, tmp_path)
    again = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{tmp_path}", pretrained=True))
    assert [list(again[key]) for key in ("mean", "std", "input_size")] == [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [3, 16, 16]]
    assert (again["interpolation"], again["crop_pct"]) == ("bicubic", 1.0)


def run_elsewhere(folder: Path, expected: dict[str, Tensor]) -> None:
    torch.save(torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(3)), folder / "x.pt")
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(folder), json.dumps(list(expected))], check=True, cwd=folder)
    found = torch.load(folder / "found.pt", weights_only=True)
    for name, y in expected.items():
        torch.testing.assert_close(found[name], y, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
def test_merged_folders_and_a_program_run_where_karst_bench_is_not(tmp_path: Path) -> None:
    net, expected = trained("vit", "adaptformer"), {}
    karst_bench.export(net, tmp_path / "beside.pt2", format="torch")
    expected["beside.pt2"] = logits(net)
    for family in NETS:
        net = karst_bench.merge(trained(family, "karst", m=4))
        save_merged(family, net, tmp_path / family)
        expected[family] = logits(net)
    run_elsewhere(tmp_path, expected)


@pytest.mark.slow
def test_every_kind_of_program_runs_where_karst_bench_is_not(tmp_path: Path) -> None:
    expected = {}
    for family in NETS:
        vit_only = ("dtl", "lst", "sparse_tuning") if family == "vit" else ()
        for method in ("karst", "adaptformer", "convpass", "vpt_deep", *vit_only):
            net = trained(family, method, **({"m": 4} if method == "karst" else {}))
            karst_bench.export(net, tmp_path / f"{family}-{method}.pt2", format="torch")
            expected[f"{family}-{method}.pt2"] = logits(net)
        net = karst_bench.merge(trained(family, "karst", m=4))
        karst_bench.export(net, tmp_path / f"{family}-merged.pt2", format="torch")
        expected[f"{family}-merged.pt2"] = logits(net)
    run_elsewhere(tmp_path, expected)


def test_a_folder_has_a_card_and_is_read_as_the_file(tmp_path: Path) -> None:
    net = trained("vit", "karst", m=4)
    folder = karst_bench.save_adapter(net, tmp_path / "mine", class_names=["cat", "dog", "a | b"])
    assert {path.name for path in folder.iterdir()} == {"adapter.safetensors", "adapter.json", "README.md"}
    again = karst_bench.load_adapter(fresh("vit"), folder).eval()
    assert torch.equal(logits(again), logits(net))
    said = json.loads((folder / "adapter.json").read_text())
    assert said["spec"]["method"]["m"] == 4 and said["about"]["dataset"]["class_names"] == ["cat", "dog", "a | b"]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: karst_bench\n") and "cat, dog, a | b" in card and said["sha256"] in card
    made = next(line for line in card.splitlines() if line.startswith("model = "))
    compile(made, "card", "exec")
    assert "num_classes=3" in made and "pretrained=True" not in made, "an architecture alone names no weights"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload asks for."""

    commits: list[list[dict[str, Any]]]
    refuse = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.refuse:
            return self.answer({"error": "not yours"}, 403)
        if self.path == "/api/repos/create":
            return self.answer({"url": f"http://{self.headers['Host']}/me/mine", "name": "me/mine"})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            return self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        if "/commit/" not in self.path:  # the card's head is looked at first
            return self.answer({"errors": [], "warnings": []})
        self.commits.append([json.loads(line) for line in body.splitlines()])
        address = f"http://{self.headers['Host']}/me/mine/commit/1"
        return self.answer({"commitUrl": address, "commitOid": "1" * 40, "hookOutput": ""})

    def do_GET(self) -> None:
        self.answer({"id": "me/mine", "sha": "0" * 40, "siblings": []})

    def answer(self, said: Any, code: int = 200) -> None:
        data = json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    kind = type("OneHub", (Hub,), {"commits": [], "refuse": False})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", kind
    server.shutdown()
    server.server_close()


def test_a_folder_is_pushed_in_one_commit(hub, tmp_path: Path) -> None:
    address, kind = hub
    folder = karst_bench.save_adapter(trained("vit", "lora"), tmp_path / "mine")
    (folder / "secret.txt").write_text("not part of the adapter")
    karst_bench.push_to_hub(folder, "me/mine", endpoint=address, token="hf_none")
    (commit,) = kind.commits
    sent = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in commit if line["key"] == "file"}
    assert sent == {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "secret.txt"}
    kind.refuse = True
    with pytest.raises(UserError, match="hub refused"):
        karst_bench.push_to_hub(folder, "me/mine", endpoint=address, token="hf_none")
    with pytest.raises(UserError, match="no adapter"):
        karst_bench.push_to_hub(tmp_path, "me/mine", endpoint=address, token="hf_none")
