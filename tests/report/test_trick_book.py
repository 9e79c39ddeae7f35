"""Ways to get a number into a cell that it does not belong to: each lands in a cell of its own, is left out with a line, or is
shown as a conflict; what only rounds otherwise (machine, threads, commit) is told apart by its footnote."""

import json

import pytest
from report_records import id_of, record, write

from karst_bench.records import record as schema
from karst_bench.report.load import load_folders
from karst_bench.report.placing import place_runs
from karst_bench.report.statistics import aggregate
from karst_bench.report.suite import load_suite

CELL = "cifar100"
TUNED = {"name": "ours", "values": {"recipe.lr": 0.003}, "listed": True}
TUNED_LR = {"config__tuned": TUNED, "config__recipe__lr": 0.003}
SHORT = {"config__recipe__epochs": 1}


def joining(**changes):
    """The trick: a run of lora on the same task that says 1.0 %, seed 3."""
    return record("lora", CELL, **{"seed": 3, "last": 1.0} | changes)


def outcome(tmp_path, tricked, base=None):
    """What became of `tricked` beside three honest seeds at 60 %: left out, own cell, conflict, footnote or joined."""
    honest = [record("lora", CELL, seed, 60.0, **(base or {})) for seed in range(3)]
    write(tmp_path, *honest)
    write(tmp_path / "there", tricked)
    folders = {"own": tmp_path / "runs" / "vtab", "imported": tmp_path / "there" / "runs" / "vtab"}
    runs, left_out = load_folders(folders, "vtab")
    if left_out:
        assert len(left_out) == 1 and left_out[0].startswith("imported/") and len(runs) == 3
        return "left out"
    (trick,) = (run for run in runs if run.origin == "imported")
    rows = [row for found in aggregate.method_results(r for r in runs if r.last is not None).values() for row in found]
    with_honest = next(row for row in rows if any(run.origin == "own" for run in row.runs))
    if with_honest.conflicts:
        (conflict,) = with_honest.conflicts
        assert trick.id in conflict.line and trick not in with_honest.runs
        return "conflict"
    if trick in with_honest.tasks[CELL].runs:
        (usual,) = {run.provenance_key for run in with_honest.runs if run.origin == "own"}
        return "footnote" if trick.provenance_key != usual else "joined"
    assert with_honest.tasks[CELL].scores == [60.0] * 3
    named = [row.label for row in rows if trick in row.runs]
    assert trick.last is None or (len(named) == 1 and named[0] != with_honest.label), "a row of its own says what it is"
    return "own cell"


OWN = {
    "one epoch": SHORT,
    "another weight decay": {"config__recipe__wd": 1},
    "another learning rate": {"config__recipe__lr": 0.5},
    "another batch": {"config__recipe__batch": 1},
    "another augmentation": {"config__recipe__augment": "fs_noah"},
    "label smoothing": {"config__recipe__label_smoothing": 0.1},
    "another optimiser": {"config__recipe__optimiser": "sgd"},
    "a renamed recipe": {"config__recipe__name": "petl101"},
    "a recipe without one key": {"config__recipe__wd": None},
    "a protocol of one's own": {"config__protocol": {"name": "mine", "train": "fit", "checks": "val", "final": "test"}},
    "a protocol that chooses by val": {"protocol": "best_val"},
    "a protocol that never saw the test": {"protocol": "val"},
    "a centre crop": {"config__dataset__transform": "center"},
    "data from elsewhere": {"config__dataset__source": "tfds"},
    "two classes": {"config__dataset__classes": 2},
    "lossy pictures": {"data__encoding": "jpeg75"},
    "another list of the same length": {"data__list_sha256": "ef" * 32},
    "other pixels": {"data__pixels_sha256": "ef" * 32},
    "train and test swapped": {"metrics__test_n": 1000, "metrics__train_n": 10000},
    "half the test set": {"metrics__test_n": 5000},
    "fewer training images": {"metrics__train_n": 800},
    "another size": {"counts__trainable_params": 1},
    "rank 1": {"hyper": {"r": 1}, "counts__trainable_params": 3072},
    "other sites": {"hyper": {"sites": "qkv"}},
    "another option of the method": {"hyper": {"dropout": 0.0}},
    "an option nobody knows": {"hyper": {"secret": 1}},
    "another method under the name": {"config__method___target_": "karst_bench.methods.linear.Linear"},
    "an extra": {"extra": "rst_scalar"},
    "a second method": {"config__also": {"name": "vpt_deep", "n": 50}},
    "another precision": {"config__precision": "fp32"},
    "another normalisation": {"config__normalization": "half"},
    "weights of the same name": {"weights__sha256": "12" * 32},
    "no weights": {"weights__sha256": None, "weights__kind": "none"},
    "another backbone under the name": {"config__backbone__timm_name": "vit_huge_patch14_224"},
    "a shallow backbone": {"config__backbone__model_args": {"depth": 2}},
    "larger input": {"config__backbone__input_size": 384},
    "other statistics": {"config__backbone__mean": [0.0, 0.0, 0.0]},
    "another torch": {"provenance__torch": "1.0.0"},
    "another timm": {"provenance__timm": "0.4.12"},
    "tuned": TUNED_LR,
    "a renamed tuning": {"config__tuned": TUNED | {"name": "paper"}, "config__recipe__lr": 0.003},
}  # fmt: skip


@pytest.mark.parametrize("changes", OWN.values(), ids=OWN)
def test_another_experiment_is_another_cell(tmp_path, changes):
    assert outcome(tmp_path, joining(**changes)) == "own cell"


CPU = {"provenance__device": "cpu", "provenance__threads": 1}
ON_A_CPU = {"threads": CPU | {"provenance__threads": 2}, "threads unsaid": CPU | {"provenance__threads": None}}


@pytest.mark.parametrize("changes", ON_A_CPU.values(), ids=ON_A_CPU)
def test_threads_of_a_cpu_are_another_cell(tmp_path, changes):
    """They order its sums. On a GPU they feed it: a footnote, below."""
    assert outcome(tmp_path, joining(**changes), CPU) == "own cell"


def test_a_gpus_run_stands_with_a_cpus_of_one_kind(tmp_path):
    assert outcome(tmp_path, joining(last=60.0), CPU) == "footnote"


def test_split_seeds_are_repeats_and_another_list_of_one_is_not(tmp_path):
    """Each split seed has a list of its own; two lists of one split seed are two versions of the data."""
    few = {"shots": 4, "split_seed": 0}
    for split, seed in ((0, 0), (0, 1), (1, 0), (2, 0)):
        write(tmp_path, record("lora", "pets", seed, 60.0, **few | {"split_seed": split}, data__list_sha256=f"{split}a" * 32))
    write(tmp_path, record("lora", "pets", 7, 1.0, **few, data__list_sha256="ef" * 32))
    runs, _ = load_folders({"own": tmp_path / "runs" / "vtab"}, "vtab")
    first, second = aggregate.method_results(runs)["lora"]
    assert first.tasks["pets@4"].scores == [60.0] * 4 and [run.split_seed for run in first.runs] == [0, 0, 1, 2]
    assert second.tasks["pets@4"].scores == [1.0] and "list=efef" in second.label


AMONG_TUNED = {
    "one epoch": TUNED_LR | SHORT,
    "another weight decay": TUNED_LR | {"config__recipe__wd": 1},
    "rank 1": TUNED_LR | {"hyper": {"r": 1}},
    "another method under the name": TUNED_LR | {"config__method___target_": "karst_bench.methods.linear.Linear"},
    "another value within a task": {"config__tuned": TUNED | {"values": {"recipe.lr": 0.1}}, "config__recipe__lr": 0.1},
    "a value given by hand": {"config__tuned": TUNED | {"values": {}}, "config__recipe__lr": 0.1},
    "untuned": {},
}


@pytest.mark.parametrize("changes", AMONG_TUNED.values(), ids=AMONG_TUNED)
def test_a_tuned_row_agrees_but_for_the_tuned_values(tmp_path, changes):
    assert outcome(tmp_path, joining(**changes), TUNED_LR) == "own cell"


LEFT_OUT = {
    "an id that was kept": {"id": "0123456789abcdef"},
    "a known protocol, other training images": {"config__protocol__train": "fit"},
    "a known protocol, other checks": {"config__protocol__checks": "val"},
    "a known protocol, another final split": {"protocol": "val", "config__protocol__final": "test"},
    "another task in the dataset's place": {"config__dataset__name": "vtab/dtd"},
    "another group": {"config__dataset__group": "structured"},
    "no whole number of images": {"metrics__test_top1_last_pct": 61.2345},
    "curves of another length": {"curves": {"epoch": [1, 2, 3]}},
    "curves that skip": {"curves": {"epoch": [*range(2, 102)]}},
    "a peak that no check saw": {"protocol": "peek10", "peak": 70.0, "metrics__test_top1_peak_pct": 90.0},
    "a best epoch without a check": {"metrics__best_epoch": 50},
    "the other suite": {"config__suite": "mini"},
}


@pytest.mark.parametrize("changes", LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_contradicts_itself_is_left_out(tmp_path, changes):
    tricked = joining(**changes)
    if "config__suite" in changes:
        (path,) = write(tmp_path / "there", tricked)
        path.parent.rename(path.parent.with_name("vtab"))
        assert load_folders({"imported": path.parent.with_name("vtab")}, "vtab")[1]
    else:
        assert outcome(tmp_path, tricked) == "left out"


@pytest.mark.parametrize(("key", "value"), [("metrics.test_top1_last_pct", 99.0), ("config.seed", 9), ("digest", None)])
def test_an_edited_file_is_left_out(tmp_path, key, value):
    """A record of today's schema has a digest; an edit breaks it, and so does taking it away."""
    (path,) = write(tmp_path, joining())
    fields = json.loads(schema.dumps(schema.load(path)))
    node, (*parents, leaf) = fields, key.split(".")
    for parent in parents:
        node = node[parent]
    if value is None:
        del node[leaf]
    else:
        node[leaf] = value
    path.write_text(json.dumps(fields))
    runs, left_out = load_folders({"own": path.parent}, "vtab")
    assert runs == [] and len(left_out) == 1 and "digest" in left_out[0]


CONFLICTS = {
    "the same run from elsewhere": {},
    "an older date": {"created": "2020-01-01T00:00:00Z"},
    "a look at the test set": {"protocol": "peek10", "peak": 1.0},
}


@pytest.mark.parametrize("changes", CONFLICTS.values(), ids=CONFLICTS)
def test_equal_seeds_that_disagree_are_a_conflict(tmp_path, changes):
    assert outcome(tmp_path, joining(seed=0, **changes)) == "conflict"


FOOTNOTES = {
    "another commit": {"provenance__commit": "fedcba9876543210"},
    "a dirty tree": {"provenance__dirty": True},
    "another release of this package": {"provenance__version": "9.9.9"},
    "other threads beside a GPU": {"provenance__threads": 1},
    "another device": {"provenance__device": "A100"},
}


@pytest.mark.parametrize("changes", FOOTNOTES.values(), ids=FOOTNOTES)
def test_what_changes_rounding_alone_has_a_footnote(tmp_path, changes):
    assert outcome(tmp_path, joining(last=60.0, **changes)) == "footnote"


def test_an_honest_seed_joins_and_an_agreeing_copy_counts_once(tmp_path):
    assert outcome(tmp_path / "a", joining(last=60.0)) == "joined"
    honest = record("lora", CELL, 0, 60.0)
    write(tmp_path / "b", honest)
    runs, left_out = load_folders(dict.fromkeys(("reference", "own"), tmp_path / "b" / "runs" / "vtab"), "vtab")
    (row,) = aggregate.method_results(runs)["lora"]
    assert left_out == [] and [run.origin for run in row.runs] == ["reference"] and row.conflicts == ()


@pytest.mark.parametrize("last", [60.0, 99.0])
def test_one_run_under_two_seeds_is_a_conflict(tmp_path, last):
    """Losses of different seeds differ in every epoch: equal ones are one run, and would make the interval narrower than it is."""
    loss = [1.0 / epoch for epoch in range(1, 101)]
    honest = [record("lora", CELL, seed, 60.0, curves__train_loss=[seed + value for value in loss]) for seed in range(3)]
    write(tmp_path, *honest, record("lora", CELL, 7, last, curves__train_loss=[1 + value for value in loss]))
    runs, left_out = load_folders({"own": tmp_path / "runs" / "vtab"}, "vtab")
    (row,) = aggregate.method_results(runs)["lora"]
    (conflict,) = row.conflicts
    assert left_out == [] and [run.seed for run in row.runs] == [0, 2]
    assert "seed 1 (own/" in conflict.line and "seed 7 (own/" in conflict.line and "same curves" in conflict.line
    unplaced = place_runs(runs, load_suite("vtab")).unplaced
    assert len(unplaced) == 2 and all("has the curves of own/" in line for line in unplaced)


def test_two_files_of_one_id_that_disagree_are_both_left_out(tmp_path):
    """Which comes first is a matter of their names, and must not be one of the numbers."""
    write(tmp_path, record("lora", CELL, 0, 60.0), record("lora", CELL, 1, 60.0))
    write(tmp_path / "runs" / "vtab" / "a", record("lora", CELL, 0, 99.0), record("lora", CELL, 1, 60.0))
    runs, left_out = load_folders({"own": tmp_path / "runs" / "vtab"}, "vtab")
    assert [(run.seed, run.last) for run in runs] == [(1, 60.0)]
    assert len(left_out) == 2 and "duplicate of record" in left_out[0] and "say different things of it" in left_out[1]


def test_the_made_ids_are_what_records_say():
    made = joining()
    assert made["id"] == id_of(made) and made["id"] != joining(seed=4)["id"]
    assert len(OWN) + len(AMONG_TUNED) + len(LEFT_OUT) + len(CONFLICTS) + len(FOOTNOTES) >= 40
