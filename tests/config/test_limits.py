"""No number, name, path or text of a configuration goes beyond what can be meant; it is said where it composes."""

import pytest

from karst_bench.config.compose import settings_of
from karst_bench.config.limits import check_limits
from karst_bench.errors import UserError

REFUSED = {
    "seed=99999999999999999999": "seed=99999999999999999999 must be at most 4294967295",
    "seed=-1": "must be at least 0",
    "method.N=10000001": "method.N=10000001 must be at most 65536",
    "method.m=1000000000": "must be at most 65536",
    "method.r=200000000": "must be at most 65536",
    "method.sigma=1e300": "method.sigma",
    "recipe.epochs=1000000000": "must be at most 100000",
    "recipe.batch=100000000": "must be at most 1000000",
    "recipe.batch=0": "recipe.batch=0 must be at least 1",
    "threads=0": "threads=0 must be at least 1",
    "backbone.input_size=100000": "must be at most 4096",
    "backbone.model_args={depth:100000000}": "must be at most 1000",
    "backbone.model_args={depth:0}": "must be at least 1",
    "seed=null": "seed=null is no value of seed",
    "backbone.mean=[1]": "three numbers",
    "backbone.std=[0.5,0,0.5]": "must be above 0",
    "backbone.model_args=3": "key: value",
    "topk=0": "must be at least 1",
    "dataset.sizes.test=-1": "dataset.sizes.test=-1 must be at least 1",
    "recipe.clip_grad=-1": "recipe.clip_grad=-1 must be null or a number of 0",
    "cache_gb=nan": "is no number",
    "lease_s=0": "must be at least 1",
    "method.name=../../x": "cannot be a name",
    "method.name=x/../../../y": "cannot be a name",
    "dataset.name=/etc": "cannot be a name",
    "backbone.timm_name=../../etc": "backbone.name='../../etc' cannot be a name",
    "method.name='lora\u202e'": "U+202E",
    "paths.results=''": "paths.results is empty",
    "paths.cache='a\u200bb'": "paths.cache holds the character U+200B",
    "out='\x1b[2J'": "U+001B",
}


@pytest.mark.parametrize(("word", "said"), REFUSED.items())
def test_refused_where_it_composes(word: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        settings_of([word])
    assert said in str(refused.value) and "\u202e" not in str(refused.value)


@pytest.mark.parametrize("white", ["0", "-1", "bright", "true"])
def test_white_is_a_level(white: str) -> None:
    settings_of(["dataset=vtab/dtd", "dataset.white=4095"])
    with pytest.raises(UserError, match=r"dataset\.white=.* must be null or a number above 0"):
        settings_of(["dataset=vtab/dtd", f"dataset.white={white}"])


def test_what_composes_as_it_comes_is_within_all_bounds() -> None:
    config = settings_of().as_config()
    check_limits(config)
    check_limits(config | {"out": "a" * 4096, "seed": 2**32 - 1})
    with pytest.raises(UserError, match="4097 characters"):
        check_limits(config | {"out": "a" * 4097})
