"""The words before Hydra: + and ~ are held to the keys there are, paths are taken as they are typed, quoting is explained."""

import os
import shlex
from pathlib import Path

import pytest

from karst_bench.config.compose import compose, settings_of
from karst_bench.config.messages import GROUPS, keys_of
from karst_bench.config.words import PATH_KEYS, plain_words
from karst_bench.errors import UserError

KEYS = list(keys_of(compose()))
PLAIN = [key for key in KEYS if "." not in key and key not in GROUPS]
LEAVES = [next(key for key in KEYS if key.startswith(f"{node}.") and not any(k.startswith(f"{key}.") for k in KEYS))
          for node in (*GROUPS, "paths") if any(key.startswith(f"{node}.") for key in KEYS)]  # fmt: skip
PATHS = [*(key for key in KEYS if key.startswith("paths.")), *(key for key in PATH_KEYS if key in KEYS)]


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        settings_of(list(words))
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_the_lists_above_hold_something_of_every_kind() -> None:
    assert len(PLAIN) > 15 and len(LEAVES) >= 8 and len(PATHS) >= 9


@pytest.mark.parametrize("key", [*GROUPS, "seed", "paths", *LEAVES])
def test_what_is_there_is_neither_added_nor_left_out(key: str) -> None:
    assert f"leave out the +: {key}=1" in refusal(f"+{key}=1")
    assert f"{key}=" in refusal(f"~{key}").partition(":")[2]


NODES = ["", *(f"{leaf.partition('.')[0]}." for leaf in LEAVES)]


@pytest.mark.parametrize(
    ("node", "mark"), [*((node, "+") for node in NODES), *((node, mark) for node in ("", NODES[-1]) for mark in ("++", "~"))]
)
def test_a_key_that_is_not_there_is_refused_with_any_mark(node: str, mark: str) -> None:
    assert f"unknown key {node}nosuch" in refusal(f"{mark}{node}nosuch" + ("=1" if mark != "~" else ""))


def test_a_typo_behind_a_plus_names_the_key_that_was_meant() -> None:
    assert "did you mean recipe.epochs" in refusal("+recipe.epoch=3")


def test_open_nodes_take_new_keys() -> None:
    cfg = compose(["dataset=vtab/dtd", "+backbone.model_args.depth=2", "+dataset.hf.revision=abc", "++seed=3"])
    assert (cfg.backbone.model_args.depth, cfg.dataset.hf.revision, cfg.seed) == (2, "abc", 3)


@pytest.mark.parametrize("word", ["backbone.model_args.depth=1", "+backbone.model_args.depth=1", "backbone.model_args={depth:1}"])
@pytest.mark.parametrize("suite", ["vtab/dtd", "mini/digits"])
def test_arguments_of_a_backbone_of_ones_own_are_never_lost(word: str, suite: str) -> None:
    cfg = compose([f"dataset={suite}", "backbone.timm_name=vit_small_patch16_224", word])
    assert dict(cfg.backbone.model_args) == {"depth": 1}


FORMS = [("~/x", "{home}/x"), ("sub/x", "{here}/sub/x"), ("/a b/x", "/a b/x"), ("/照片/é x.jpg", "/照片/é x.jpg"), ("/a=b", "/a=b"),
         ("/a#b", "/a#b"), ("/a~b", "/a~b"), ("/[a]", "/[a]"), ("/(a", "/(a"), ("/{a}", "/{a}"), ("/a'b", "/a'b"),
         ("'/a,b'", "/a,b"), ("${oc.env:KARST_TEST_PLACE}/x", "{home}/x")]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "typed", "meant"), [*((PATHS[0], *form) for form in FORMS), *((key, *form) for key in PATHS[1:] for form in FORMS[:2])]
)
def test_a_path_is_taken_as_it_is_typed(
    key: str, typed: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One composition a key would do it, but a path that is not closed may swallow what follows."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KARST_TEST_PLACE", "~")
    (word,) = plain_words([f"{key}={typed}"])
    if key in PATHS[:2] or typed in ("~/x", "sub/x"):
        found: object = settings_of([word]).as_config()
        for part in key.split("."):
            found = found[part]  # type: ignore[index]
        assert found == meant.replace("{home}", str(tmp_path)).replace("{here}", os.getcwd())  # noqa: PTH109
    assert plain_words([word]) == [word] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["a=b", "a#b", "a~b", "[a", "(a", "{a", "a]b", "照片", "a'b"])
def test_what_hydra_cannot_read_is_told_with_the_quotes_it_needs(value: str) -> None:
    said = refusal(f"tracker.name={value}")
    (word,) = shlex.split(said.rpartition("the shell: ")[2])
    with pytest.raises(UserError, match=r"tracker\.name"):  # read now, and no such key
        settings_of([word])
    assert word != f"tracker.name={value}" and "quote it for Hydra" in said


@pytest.mark.parametrize(
    ("word", "said"),
    [("format=a,b", "'format=\"a,b\"'"), ("format=${nowhere}", "format: "), ("=3", "key=value"), ("seed", "key=value"),
     ("format=${oc.env:KARST_TEST_NOT_SET}", "KARST_TEST_NOT_SET is not set"), ("+=1", "key=value"), ("a b=3", "key=value"),
     ("out=~nobody_here/x", "write the path in full")],
)  # fmt: skip
def test_other_unreadable_words_get_a_sentence(word: str, said: str) -> None:
    assert said in refusal(word)


def test_precision_auto_is_what_the_processor_has(monkeypatch: pytest.MonkeyPatch) -> None:
    from karst_bench.config import places

    for has, meant in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(places, "cpu_has_bf16", lambda has=has: has)
        for dataset in ("vtab/dtd", "mini/digits"):
            assert settings_of([f"dataset={dataset}", "precision=auto", "device=cpu"]).precision == meant
    monkeypatch.setattr(places, "_gpu_capability", lambda: 7.5)
    assert settings_of(["precision=auto"]).precision == "fp32"
