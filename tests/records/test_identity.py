"""The id of a run: equal for equal runs, different for everything that decides a number."""

import copy

import pytest
from msgspec.structs import replace

from karst_bench.records import identity

HASHES = {"weights_sha256": "w" * 64, "list_sha256": "l" * 64}


def test_the_id_is_pinned(config):
    """A change of this value orphans every committed record: bump the schema if it must be."""
    assert identity.identify(config, **HASHES) == "2fcae3e1e69f47e7"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("paths", {"results": "/elsewhere"}),
        ("tracker", {"name": "wandb"}),
        ("device", "cuda"),
        ("threads", 8),
        ("force", True),
        ("debug", True),
        ("backbone.weights", "/some/file.npz"),
        ("backbone.name", "renamed"),
        ("dataset.licence", "CC-BY"),
        ("method.label", "KARST!"),
        ("method.new_option", None),
        ("recipe.epochs", 10.0),
        ("method.sigma", 1),
        ("regularizer", {"name": "none"}),
    ],
)
def test_what_decides_nothing_changes_nothing(config, path, value):
    assert identity.identify(_with(config, path, value), **HASHES) == identity.identify(config, **HASHES)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("method.N", 4),
        ("method.sites", ["q", "v"]),
        ("extra.name", "none"),
        ("also.name", "vpt_deep"),
        ("regularizer", {"name": "pace", "lam": 1.0}),
        ("tuned.name", "ours"),
        ("backbone.timm_name", "swin_tiny"),
        ("backbone.model_args.depth", 12),
        ("dataset.name", "mini/count"),
        ("dataset.source", "tfds"),
        ("dataset.encoding", "jpeg75"),
        ("dataset.shots", 4),
        ("dataset.split_seed", 1),
        ("dataset.transform", "fs_test"),
        ("dataset.classes", 11),
        ("dataset.limit", 100),
        ("dataset.val_share", 0.3),
        ("dataset.test_share", 0.3),
        ("dataset.white", 1023.0),
        ("normalization", "imagenet"),
        ("recipe.lr", 1e-2),
        ("protocol.name", "peek10"),
        ("seed", 1),
        ("precision", "bf16"),
    ],
)
def test_what_decides_a_number_changes_the_id(config, path, value):
    changed = _with(config, path, value)
    assert identity.identify(changed, **HASHES) != identity.identify(config, **HASHES)
    assert identity.cell_key(changed) != identity.cell_key(config)


@pytest.mark.parametrize(("key", "value"), [("input_size", 64), ("mean", [0.1, 0.2, 0.3]), ("std", [0.1, 0.2, 0.3])])
def test_what_a_backbone_is_fed_changes_the_id(config, key, value):
    assert identity.identify(_with(config, f"backbone.{key}", value), **HASHES) != identity.identify(config, **HASHES)


def test_a_later_option_counts_only_where_it_departs_from_what_ran_before_it(config):
    for node, later in identity.LATER.items():
        for key, value in later.items():
            path = f"{node}.{key}"
            assert identity.cell_key(_with(config, path, value)) == identity.cell_key(config), path
            assert identity.cell_key(_with(config, path, "another")) != identity.cell_key(config), path


def test_hashes_count_and_order_does_not(config):
    base = identity.identify(config, **HASHES)
    assert identity.identify(config, weights_sha256=None, list_sha256="l" * 64) != base
    assert identity.identify(config, weights_sha256="w" * 64, list_sha256="k" * 64) != base
    assert identity.identify(dict(reversed(config.items())), **HASHES) == base


def test_nan_has_no_identity(config):
    with pytest.raises(ValueError, match="JSON"):
        identity.identify(_with(config, "recipe.lr", float("nan")), **HASHES)


def _with(config, path, value):
    changed = copy.deepcopy(config)
    *parents, last = path.split(".")
    node = changed
    for parent in parents:
        node = node[parent]
    node[last] = value
    return changed


def test_pixels_count_since_schema_2(config):
    base = identity.identify(config, **HASHES)
    assert identity.identify(config, **HASHES, pixels_sha256="p" * 64) != base
    assert identity.identify(config, **HASHES, pixels_sha256="p" * 64, schema=1) == base


def test_an_id_is_recomputed_from_the_record(record):
    assert identity.recomputed_id(record) == record.id
    forged = replace(record, data=replace(record.data, list_sha256="f" * 64))
    assert identity.recomputed_id(forged) != record.id
