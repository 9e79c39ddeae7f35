"""adapter= says what it was trained with: words that were not given follow it, words that were must agree with it."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import msgspec
from omegaconf import DictConfig

from karst_bench.config.option_files import options
from karst_bench.errors import UserError
from karst_bench.tensors_file import tensors_header

USES = ("evaluate", "predict", "merge", "export", "diagnose")
NODES = ("method", "also", "extra")
IN_FOLDER = "adapter.safetensors"


def adapter_words(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """The overrides that name the method, backbone, dataset and normalisation of `adapter=`, where none was given.

    Raises: UserError where `method=`, `also=`, `extra=` or one of their values was given and is another one than the adapter's,
    or where the file is damaged.
    """
    if cfg.action not in USES or cfg.adapter is None:
        return []
    path = Path(str(cfg.adapter))
    path = path / IN_FOLDER if path.is_dir() else path
    if not path.is_file():
        return []  # whoever opens it says so
    texts = tensors_header(path).texts
    spec, about = _parsed(path, texts, "spec"), _parsed(path, texts, "about")
    given = {override.partition("=")[0].lstrip("+~") for override in overrides}
    _refuse_disagreement(path, cfg, spec, given)
    return [*_method_words(spec, given), *_other_words(about, given)]


def _refuse_disagreement(path: Path, cfg: DictConfig, spec: Mapping[str, object], given: Set[str]) -> None:
    for node in NODES:
        stored = _group(spec, node)
        for word in sorted(given) if stored else ():
            group, _, key = word.partition(".")
            if group != node:
                continue
            key = key.partition(".")[0] or "name"
            ours = cfg[node].get(key) if key in cfg[node] else None
            theirs = stored.get(key)
            if msgspec.to_builtins(_plain(ours)) != theirs:
                name = node if key == "name" else f"{node}.{key}"
                raise UserError(
                    f"{name}={ours}, but {path} was trained with {name}={theirs}; leave it out: an adapter brings its method"
                )


def _method_words(spec: Mapping[str, object], given: Set[str]) -> list[str]:
    """`method=lora also=none extra=none`, so that titles name what is used; values come from the file itself."""
    words = []
    for node in NODES:
        name = _group(spec, node).get("name")
        known = name in options("method" if node == "also" else node) or (node == "also" and name == "none")
        if isinstance(name, str) and known and not _touched(given, node):
            words.append(f"{node}={name}")
    return words


def _other_words(about: Mapping[str, object], given: Set[str]) -> list[str]:
    words = []
    for node in ("backbone", "dataset"):
        said = _group(about, node)
        name = said.get("name")
        if isinstance(name, str) and not _touched(given, node):
            if name in options(node):
                words.append(f"{node}={name}")
            elif node == "dataset" and isinstance(said.get("classes"), int):
                words.append(f"dataset.classes={said['classes']}")
    if about.get("normalization") in ("model", "half", "imagenet", "none") and "normalization" not in given:
        words.append(f"normalization={about['normalization']}")
    return words


def _group(said: Mapping[str, object], node: str) -> dict[str, object]:
    found = said.get(node)
    return found if isinstance(found, dict) else {}


def _touched(given: Set[str], node: str) -> bool:
    return any(word == node or word.startswith(f"{node}.") for word in given)


def _plain(value: object) -> object:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _parsed(path: Path, texts: Mapping[str, str], key: str) -> dict[str, object]:
    try:
        found = msgspec.json.decode(texts.get(key, "{}"))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: its {key!r} cannot be read: {str(error)[:160]}; save the adapter again") from error
    return found if isinstance(found, dict) else {}
