"""Which files become runs and which do not; which runs become cells, rows and averages."""

import csv
import io
import json
from dataclasses import replace

import pytest
from report_records import record, write

from karst_bench.config.compose import settings_of
from karst_bench.records.identity import deciding_facts
from karst_bench.report.experiment import default_facts, flat
from karst_bench.report.figure_data import common_tasks
from karst_bench.report.load import load_runs
from karst_bench.report.regression import compared
from karst_bench.report.results_csv import wide_csv
from karst_bench.report.statistics import aggregate
from karst_bench.report.statistics.cells import on_val
from karst_bench.report.suite import load_suite

VTAB = load_suite("vtab")


def load(tmp_path, suite="vtab"):
    return load_runs(tmp_path / "runs" / suite, suite)


def test_a_record_becomes_a_run(tmp_path):
    write(tmp_path, record("karst", "svhn", 2, 91.5, protocol="peek10", peak=92.0))
    (run,), left_out = load(tmp_path)
    assert left_out == []
    assert (run.method, run.task, run.seed, run.last, run.peak) == ("karst", "svhn", 2, 91.5, 92.0)
    assert run.params == 337920 and run.machine == "H200, 8 threads"


def test_a_few_shot_runs_repeats_are_its_split_and_its_seed(tmp_path):
    """Two runs pair where both agree: split 1 with seed 0 is no repeat of split 0 with seed 0, nor of split 0 with seed 1."""
    few = {"protocol": "best_val", "shots": 4}
    write(tmp_path, *(record("lora", "pets", seed, split_seed=split, **few) for split in (0, 1) for seed in (0, 1)))
    runs, _ = load(tmp_path)
    assert len({run.repeat for run in runs}) == len(runs) == 4


def test_accuracy_on_val_is_that_of_the_last_epoch_where_that_was_measured(tmp_path):
    looked = [{"epoch": 1, "split": "val200", "top1_pct": 65.0}, {"epoch": 100, "split": "val200", "top1_pct": 60.0}]
    on_val = {"metrics__val_top1_last_pct": 60.0, "metrics__val_top1_best_pct": 65.0, "curves__checks": looked}
    write(tmp_path, record(protocol="val", **on_val))
    (run,), _ = load(tmp_path)
    assert (run.val, run.last) == (60.0, None)


def test_a_run_of_val_alone_has_vals_number_of_images(tmp_path):
    """200, of which its error bar is made, not the 10,000 of the test set."""
    write(tmp_path, record(protocol="val", metrics__val_top1_last_pct=60.0))
    (run,), _ = load(tmp_path)
    seen = on_val(run)
    assert (seen.last, seen.peak, seen.test_images) == (60.0, None, 200)


@pytest.mark.parametrize(("changes", "apart"), [
    ({"data__list_sha256": "ee" * 32}, True), ({"data__encoding": "jpeg75"}, True), ({"config__recipe__lr": 0.5}, True),
    ({"provenance__torch": "2.11.0"}, False), ({"provenance__commit": "ab" * 8}, False),
])  # fmt: skip
def test_a_comparison_of_code_pairs_what_ran_the_same_on_the_same_data(tmp_path, changes, apart):
    write(tmp_path / "a", record(last=70))
    write(tmp_path / "b", record(last=71, **changes))
    found = compared(load(tmp_path / "a"), load(tmp_path / "b"))
    assert found.alone == ((1, 1) if apart else (0, 0)) and len(found.changes) == (0 if apart else 1)


def test_nothing_there(tmp_path):
    assert load(tmp_path) == ([], [])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"extra": "rst_scalar", "method": "fact_tk"}, "fact_tk+rst_scalar"),
        ({"method": "karst"}, "karst"),
        ({"method": "karst", "config__extra__name": "none"}, "karst+none"),
        ({"method": "lora", "config__also__name": "vpt_deep"}, "lora+vpt_deep"),
        ({"method": "lora", "config__regularizer": {"name": "pace"}}, "lora+pace"),
        ({"method": "karst_code", "extra": "rst_scalar"}, "karst_code"),
    ],
)
def test_names(tmp_path, changes, expected):
    write(tmp_path, record(**changes))
    assert [run.method for run in load(tmp_path)[0]] == [expected]


HOSTILE = {
    "script in the method": {"config__method__name": "<script>alert(1)</script>"},
    "LaTeX in the method": {"config__method__name": r"\input{/etc/passwd}"},
    "formula in the method": {"config__method__name": "=cmd|'/c calc'!A1"},
    "escape codes": {"config__backbone__name": "\x1b[2J"},
    "path in the dataset": {"config__dataset__name": "../../etc"},
    "path within the dataset": {"config__dataset__name": "vtab/../../etc"},
    "foreign schema": {"schema": 4},
    "no integer schema": {"schema": "1"},
    "not done": {"status": "running"},
    "negative accuracy": {"metrics__test_top1_last_pct": -1.0},
    "accuracy of 101": {"metrics__test_top1_last_pct": 101.0},
    "text accuracy": {"metrics__test_top1_last_pct": "90"},
    "true accuracy": {"metrics__test_top1_last_pct": True},
    "no accuracy": {"metrics__test_top1_last_pct": None},
    "no test images": {"metrics__test_n": 0},
    "negative parameters": {"counts__trainable_params": -1},
    "no counts": {"counts": None},
    "markup in the group": {"config__dataset__group": "<b>"},
    "a protocol without fields": {"config__protocol": {"name": "best_of_all"}},
    "another field under a known protocol's name": {"config__protocol__train": "fit"},
    "other suite": {"config__suite": "mini"},
    "a long id": {"id": "0" * 17},
    "huge integer": {"counts__trainable_params": 10**400},
    "method is a list": {"config__method": ["karst"]},
}


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_records_are_left_out_with_one_line(tmp_path, changes):
    good, bad = record(seed=0), record(seed=1, **changes)
    write(tmp_path, good)
    (tmp_path / "runs" / "vtab" / f"{bad['id']}.json").write_text(json.dumps(bad))
    runs, left_out = load(tmp_path)
    assert [run.id for run in runs] == [good["id"]]
    (line,) = left_out
    assert line.startswith(bad["id"]) and line.isascii() and line.isprintable() and len(line) < 400


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"schema": 1, "schema": 1}', '{"schema": NaN}', "[" * 100000, "\ufeff{}", "1e400"],
)
def test_damaged_text_is_left_out(tmp_path, text):
    (good,) = write(tmp_path, record())
    (good.parent / ("f" * 16 + ".json")).write_text(text)
    runs, left_out = load(tmp_path)
    assert len(runs) == 1 and len(left_out) == 1


def test_half_written_nan_and_overflow(tmp_path):
    (good,) = write(tmp_path, record())
    text = good.read_text()
    names = iter(f"{n:016x}.json" for n in range(9))
    for broken in (
        text[: len(text) // 2],
        text.replace("70.0", "NaN", 1),
        text.replace("70.0", "1e400", 1),
        text.replace("70.0", "Infinity", 1),
        text.replace("70.0", "1" + "0" * 5000, 1),
    ):
        (good.parent / next(names)).write_text(broken)
    (good.parent / next(names)).write_bytes(b"\xff\xfe\x00")
    runs, left_out = load(tmp_path)
    assert len(runs) == 1 and len(left_out) == 6


def test_oversized_file_is_not_read(tmp_path):
    (good,) = write(tmp_path, record())
    with (good.parent / ("a" * 16 + ".json")).open("wb") as file:
        file.truncate(100 * 2**20)
    runs, left_out = load(tmp_path)
    assert len(runs) == 1 and "104857600" in left_out[0].replace(",", "")


def test_copies_folders_and_strange_names(tmp_path):
    (good,) = write(tmp_path, record())
    (good.parent / f"{good.stem} (copy).json").write_text(good.read_text())
    (good.parent / "sub").mkdir()
    (good.parent / "sub" / good.name).write_text(good.read_text())
    (good.parent / "folder.json").mkdir()
    (good.parent / "a\nb\x1b[31m.json").write_text("{}")
    runs, left_out = load(tmp_path)
    assert len(runs) == 1 and len(left_out) == 4
    assert any("duplicate" in line for line in left_out)
    assert all(line.isprintable() for line in left_out)


def test_a_link_out_of_the_folder_is_left_out(tmp_path):
    (path,) = write(tmp_path / "elsewhere", record())
    folder = tmp_path / "runs" / "vtab"
    folder.mkdir(parents=True)
    (folder / path.name).symlink_to(path)
    runs, (line,) = load(tmp_path)
    assert runs == [] and "outside this folder" in line


def rows(tmp_path, *records):
    write(tmp_path, *records)
    runs, left_out = load(tmp_path)
    assert left_out == []
    return aggregate.method_results(runs)


def test_seeds_of_a_cell(tmp_path):
    (row,) = rows(tmp_path, *(record(seed=seed, last=70 + seed) for seed in range(3)))["karst"]
    cell = row.tasks["cifar100"]
    assert cell.estimate.value == 71 and cell.estimate.n == 3
    assert cell.test_error == pytest.approx(100 * (0.71 * 0.29 / 10000) ** 0.5)


def test_a_seed_counts_once_and_keeps_its_peak(tmp_path):
    twice = record(seed=0, last=70), record(seed=0, last=70, protocol="peek10", peak=71.0)
    (row,) = rows(tmp_path, *twice, record(seed=1, last=72))["karst"]
    assert row.tasks["cifar100"].scores == [70, 72]
    assert row.tasks["cifar100"].peaks == [(70, 71)]


def test_versions_of_the_data_do_not_mix(tmp_path):
    png = [record(seed=seed, last=80) for seed in (0, 1)]
    first, other = rows(tmp_path, *png, record(seed=2, last=60, data__encoding="jpeg75"))["karst"]
    assert first.tasks["cifar100"].scores == [80, 80] and first.label == "karst"
    assert other.tasks["cifar100"].scores == [60] and other.label == "karst [encoding=jpeg75]"


APART = {
    "encoding": {"data__encoding": "jpeg75"}, "list": {"data__list_sha256": "ee" * 32},
    "pixels": {"data__pixels_sha256": "ee" * 32},
    "test_n": {"metrics__test_n": 5000}, "train_n": {"metrics__train_n": 800}, "torch": {"provenance__torch": "2.11.0"},
    "timm": {"provenance__timm": "1.0.9"}, "trained scalars": {"counts__trainable_params": 5},
    "weights": {"weights__sha256": "ef" * 32}, "random weights": {"weights__sha256": None, "weights__kind": "none"},
    "weights from a file": {"weights__kind": "file", "weights__sha256": "ef" * 32},
}  # fmt: skip


@pytest.mark.parametrize("what", APART)
def test_what_changes_a_number_makes_another_row(tmp_path, what):
    """Three seeds of one experiment and a fourth of another: never a mean of four."""
    made = [record(seed=seed, last=80) for seed in range(3)]
    found = rows(tmp_path, *made, record(seed=3, last=60, **APART[what]))["karst"]
    assert [row.tasks["cifar100"].scores for row in found] == [[80, 80, 80], [60]]
    assert found[0].label == "karst" and found[1].label != "karst"


def test_three_splits_of_one_seed_come_before_two_seeds_of_one_split(tmp_path):
    """The case with most repeats is the first row."""
    few = {"method": "lora", "task": "pets", "shots": 4, "protocol": "best_val"}
    made = [record(split_seed=split, seed=0, last=60, **few) for split in (0, 1, 2)]
    other = [record(split_seed=0, seed=seed, last=50, provenance__timm="1.0.9", **few) for seed in (5, 6)]
    assert [row.tasks["pets@4"].scores for row in rows(tmp_path, *made, *other)["lora"]] == [[60] * 3, [50] * 2]


def test_a_set_of_ones_own_with_more_classes_is_another_row(tmp_path):
    own = {"method": "lora", "task": "leaves", "group": "own", "config__dataset__name": "mine/leaves"}
    made = [record(seed=seed, config__dataset__classes=classes, **own) for seed, classes in ((0, 10), (1, 10), (2, 12))]
    assert [len(row.tasks["leaves"].scores) for row in rows(tmp_path, *made)["lora"]] == [2, 1]


def test_other_weights_than_the_published_ones_are_told(tmp_path):
    for kind, sha in (("none", None), ("file", "ef" * 32)):
        (row,) = rows(tmp_path / kind, record(weights__kind=kind, weights__sha256=sha))["karst"]
        assert row.label == f"karst [weights={kind}]"


def test_common_tasks_are_those_that_give_most_rows_times_tasks(tmp_path):
    """Two methods on two tasks and a third on one of them: 2 x 2 beats 3 x 1."""
    made = [record(method, task) for method, tasks in (("karst", "ab"), ("lora", "ab"), ("ssf", "a"))
            for task in (("cifar100", "dtd")[: len(tasks)])]  # fmt: skip
    settings = [row for found in rows(tmp_path, *made).values() for row in found]
    assert common_tasks(settings, VTAB.task_names) == ["cifar100", "dtd"]


def test_an_average_is_of_each_tuning_by_itself(tmp_path):
    searched = {"config__tuned": {"name": "ours", "values": {"recipe.lr": 0.03}, "listed": True}, "config__recipe__lr": 0.03}
    found = rows(tmp_path, record(last=70), record(seed=1, last=80, **searched))
    whole = aggregate.complete_results(found, ["cifar100"])
    assert {row.tuned: row.tasks["cifar100"].scores for row in whole} == {"none": [70], "ours": [80]}


def test_one_line_a_row_holds_test_accuracy_wherever_a_run_has_it(tmp_path):
    """best_val looks at val to choose its epoch; val measures nothing else."""
    looked = [{"epoch": 7, "split": "val", "top1_pct": 90.0}, {"epoch": 7, "split": "test", "top1_pct": 70.0}]
    chosen = {"metrics__val_top1_best_pct": 90.0, "metrics__best_epoch": 7, "curves__checks": looked}
    few = {"task": "pets", "shots": 4, "split_seed": 0}
    write(tmp_path, record(protocol="best_val", last=70, **few, **chosen), record(protocol="val", metrics__val_top1_last_pct=60.0))
    runs, left_out = load(tmp_path)
    lines = list(csv.DictReader(io.StringIO(wide_csv("vtab", runs))))
    assert left_out == [] and [(line["protocol"], line["fewshot/pets@4"], line["vtab/cifar100"]) for line in lines] == [
        ("best_val", "70", ""), ("val", "", "60"),
    ]  # fmt: skip


def test_settings_are_rows_of_their_own(tmp_path):
    sweep = [record(seed=s, task=t, last=75, hyper={"N": 4, "m": 8, "r": 8}) for s in range(3) for t in ("dtd", "pets")]
    found = rows(tmp_path, record(last=70), *sweep, record(seed=5, config__normalization="half"))["karst"]
    assert [row.label for row in found] == ["karst", "karst [N=4]", "karst [normalization=half]"]


def test_a_run_of_before_an_option_and_one_at_its_first_value_are_seeds_of_one_row(tmp_path):
    later = {"config__recipe__lag": 1, "config__recipe__drop_last": False}
    (row,) = rows(tmp_path, record(last=70), record(seed=1, last=72, **later))["karst"]
    assert row.tasks["cifar100"].scores == [70, 72]
    init = [record("convpass", seed=seed, hyper=hyper) for seed, hyper in enumerate(({"h": 8}, {"h": 8, "init": "identity"}))]
    assert len(rows(tmp_path, *init)["convpass"]) == 1
    other = record("convpass", seed=2, hyper={"h": 8}, config__recipe__lag=0)
    assert len(rows(tmp_path, *init, other)["convpass"]) == 2


def test_a_setting_that_is_not_the_papers_says_so(tmp_path):
    (row,) = rows(tmp_path, record(hyper={"N": 4, "m": 8, "r": 8}))["karst"]
    assert row.label == "karst [N=4]"


def test_the_default_comes_first_however_few_its_runs(tmp_path):
    """`full` with another rate on many tasks does not stand as plain `full`, whose one default run does."""
    bent = [record("full", task, last=78.0, config__recipe__lr=1e-3) for task in VTAB.task_names[:5]]
    found = rows(tmp_path, *bent, record("full", last=33.0))["full"]
    assert [row.label for row in found] == ["full", "full [recipe.lr=0.001]"]
    assert found[0].tasks["cifar100"].scores == [33.0]
    assert ("other than the default", "recipe.lr=0.001") in found[1].runs[0].provenance_key


@pytest.mark.parametrize(
    "words", [("lora", "mini/digits", "vit_mini"), ("full", "mini/digits", "swin_mini"), ("karst", "vtab/dtd", "vit_b16")]
)
def test_the_default_is_what_is_composed(words):
    overrides = [f"{key}={word}" for key, word in zip(("method", "dataset", "backbone"), words, strict=True)]
    facts = deciding_facts(settings_of(overrides).as_config())
    expected = flat({key: value for key, value in facts.items() if key not in ("seed", "tuned", "dataset", "extra")})
    found = {key: value for key, value in default_facts(*words).items() if not key.startswith("extra.")}
    assert found == expected


def test_tuned_values_differ_by_task_within_a_row(tmp_path):
    def tuned(task, scale, seed=0, **changes):
        values = {"name": "paper", "values": {"method.s": scale}, "listed": True}
        return record("fact_tk", task, seed, hyper={"s": scale}, config__tuned=values, **changes)

    unlisted = record("fact_tk", "svhn", config__tuned={"name": "paper", "values": {}, "listed": False})
    made = [tuned("dtd", 10.0), tuned("dtd", 10.0, 1), tuned("pets", 0.1), unlisted, tuned("dtd", 5.0, 2)]
    made += [tuned("pets", 0.1, 1, config__recipe__batch=1)]
    by_hand = record("fact_tk", "svhn", 1, hyper={"s": 7.0}, config__tuned={"name": "paper", "values": {}, "listed": False})
    row, short, by_hand, other = rows(tmp_path, *made, by_hand)["fact_tk"]
    assert set(row.tasks) == {"dtd", "pets", "svhn"} and row.label == "fact_tk [tuned=paper]"
    assert len(row.tasks["dtd"].runs) == 2, "another value within a task is another cell"
    assert by_hand.label == "fact_tk [tuned=paper, s=7]"
    assert short.label == "fact_tk [tuned=paper, method.s=5]" and other.label == "fact_tk [tuned=paper, recipe.batch=1]"


def test_averages_by_hand_and_only_when_complete(tmp_path):
    values = {task: 50.0 + index for index, task in enumerate(VTAB.task_names)}
    (row,) = rows(tmp_path, *(record(task=task, last=value) for task, value in values.items()))["karst"]
    tasks = VTAB.task_names
    flat = aggregate.mean_over(row, tasks, VTAB.task_weights)
    group = aggregate.mean_over(row, tasks, VTAB.group_weights)
    assert flat.value == pytest.approx(59.0) and flat.half is None
    assert group.value == pytest.approx((53 + 58.5 + 64.5) / 3)
    short = replace(row, tasks={task: cell for task, cell in row.tasks.items() if task != "dtd"})
    assert aggregate.mean_over(short, tasks, VTAB.task_weights) is None


def test_peeking_gap_is_of_the_same_runs(tmp_path):
    peeks = [record(seed=s, last=70.0, protocol="peek10", peak=70.0 + s) for s in range(3)]
    (row,) = rows(tmp_path, *peeks, record(task="dtd", last=10.0))["karst"]
    gap, tasks = aggregate.peeking_gap(row, VTAB.task_names)
    assert gap.value == pytest.approx(1.0) and gap.n == 3 and tasks == 1


def test_seeds_of_a_search_are_one_cell_however_much_each_found(tmp_path):
    """What was found decides how much trains; where nothing was searched another count is another experiment."""
    sizes = (100, 200, 600)
    found = [record("noah", seed=s, artefact=f"artefacts/{s}.json", counts__trainable_params=n) for s, n in enumerate(sizes)]
    fixed = [record("lora", seed=s, counts__trainable_params=n) for s, n in enumerate(sizes)]
    results = rows(tmp_path, *found, *fixed)
    assert len(results["noah"][0].tasks["cifar100"].runs) == 3 and results["noah"][0].params_m == pytest.approx(3e-4)
    assert len(results["lora"][0].tasks["cifar100"].runs) == 1


def test_missing_seeds(tmp_path):
    (row,) = rows(tmp_path, record(seed=1), *(record(task="dtd", seed=s) for s in (7, 8, 9)))["karst"]
    assert aggregate.missing_seeds(row, "cifar100", (0, 1, 2)) == (0, 2)
    assert aggregate.missing_seeds(row, "dtd", (0, 1, 2)) == ()
    assert aggregate.missing_seeds(None, "dtd", (0, 1, 2)) == (0, 1, 2)
