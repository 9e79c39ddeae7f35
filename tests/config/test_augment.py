"""conf/augment and its name in the recipe: one choice, whichever way it is made, and never two behind one id."""

import pytest

from karst_bench.config.augment import check_augment
from karst_bench.config.compose import settings_of
from karst_bench.config.option_files import option_config, options
from karst_bench.errors import UserError
from karst_bench.records.identity import cell_key

FEWSHOT = "dataset=fewshot/pets"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ((), "none"),
        ((FEWSHOT,), "fs_dtl"),
        ((FEWSHOT, "recipe=fs_noah"), "fs_noah"),
        ((FEWSHOT, "recipe=fs_noah", "augment=none"), "none"),
        (("augment=fs_dtl",), "fs_dtl"),
        ((FEWSHOT, "recipe.augment=fs_dtl"), "fs_dtl"),
        ((FEWSHOT, "augment.flip=0.5", "augment.mixup=0", "augment.crop.scale=[0.08,1]"), "fs_dtl"),
    ],
)
def test_the_recipe_names_what_is_done(words: tuple[str, ...], name: str) -> None:
    settings = settings_of(words)
    assert settings.recipe.augment == name == settings.augment["name"]
    assert dict(settings.augment) == option_config("augment", name)


def test_every_file_is_its_name_and_keeps_the_ids_of_the_published_recipes() -> None:
    """The name alone enters an id, as it did when the values stood in Python."""
    assert options("augment") == ["fs_dtl", "fs_noah", "none"]
    for name in options("augment"):
        values = option_config("augment", name)
        check_augment(values)
        assert values["name"] == name
    dtl, noah = (option_config("augment", name) for name in ("fs_dtl", "fs_noah"))
    assert dtl["crop"] == {"scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3]} and dtl["policy"] == "rand-m9-mstd0.5-inc1"
    assert {key: noah[key] for key in noah if noah[key] != dtl[key]} == {
        "name": "fs_noah", "erase": 0.25, "mixup": 0.8, "cutmix": 1.0,
    }  # fmt: skip


def test_other_values_are_another_run() -> None:
    keys, names = [], []
    for words in ((), ("augment.erase=0.5",), ("augment.erase=0.25",), ("augment.name=mine",)):
        settings = settings_of([FEWSHOT, *words])
        keys.append(cell_key(settings.as_config()))
        names.append(settings.recipe.augment)
    assert len(set(keys)) == len(keys)
    assert names[0] == "fs_dtl" and all(name.startswith("fs_dtl-") for name in names[1:3]) and names[3].startswith("mine-")
    assert names[1] == settings_of([FEWSHOT, "augment.erase=0.5"]).recipe.augment


@pytest.mark.parametrize("words", [("recipe.augment=fs_noah",), ("augment=none", "recipe.augment=fs_dtl")])
def test_two_names_that_differ_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=rf"choose it with augment={words[-1].partition('=')[2]}"):
        settings_of([FEWSHOT, *words])


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("augment.flip=2", r"augment\.flip=2 must be a probability"),
        ("augment.erase=often", r"augment\.erase=often must be a probability"),
        ("augment.mixup=-1", r"augment\.mixup=-1 must be 0"),
        ("augment.canvas=0.5", r"augment\.canvas=0\.5 must be null"),
        ("augment.policy=rand-m9-q", r"augment\.policy=rand-m9-q must be null or in timm's form"),
        ("augment.crop.scale=[0.5,0.1]", r"augment\.crop=.* in this order"),
        ("augment.crop.scale=[0.5,1.5]", r"augment\.crop=.*at most 1"),
        ("augment=fs_dlt", r"augment=fs_dlt is unknown; did you mean fs_dtl\?"),
        ("augment.colour=1", r"unknown key augment\.colour"),
        ("+augment.colour=1", r"unknown key augment\.colour"),
    ],
)
def test_bad_values_say_what_is_allowed(word: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        settings_of([FEWSHOT, word])


def test_recipes_leave_the_name_to_the_group() -> None:
    """A recipe that named an augmentation by itself would not bring it along."""
    for name in options("recipe"):
        node = option_config("recipe", name)  # with the recipe that it is made of
        assert node.get("recipe", node)["augment"] == "${augment.name}", name
