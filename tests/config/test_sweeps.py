"""Sweeps: what is asked for becomes exactly the runs that were meant, or an error."""

import pytest

from karst_bench.config import compose as config
from karst_bench.config.compose import compose
from karst_bench.config.option_files import sweep_rows
from karst_bench.config.sweep_files import read_sweep, sweep_names
from karst_bench.config.sweeps import MULTIRUN, axes, expand, jobs, runs_alike
from karst_bench.config.swept_options import check_swept_options, left_to_runs
from karst_bench.errors import UserError

NAMES = {"table1", "table2", "table3", "figure2", "figure3", "ablate_N", "ablate_m", "ablate_r", "demo", "fgvc"}
MADE_FOR = [(name, suite) for suite in ("vtab", "mini") for name in sorted(NAMES) if (name, suite) != ("fgvc", "mini")]


def quiet(overrides):
    return expand(overrides)


def test_every_sweep_is_an_option_that_hydra_lists():
    assert {*NAMES, "none"} == set(config.options("sweep")) == {*sweep_names(), "none"}
    assert set(sweep_names("vtab")) == NAMES == {*sweep_names("mini"), "fgvc"}


@pytest.mark.parametrize(("name", "suite"), MADE_FOR)
def test_each_sweep_names_only_what_exists(name, suite):
    expanded = quiet([f"sweep={name}", f"suite={suite}"])
    assert expanded[0] == MULTIRUN and not any(word.startswith(("sweep=", "suite=")) for word in expanded)
    given = dict(word.split("=", 1) for word in expanded[1:])
    for group in ("method", "dataset", "backbone", "experiment"):
        for option in given.get(group, "").split(","):
            assert not option or option in config.options(group), option
    assert len(jobs(expanded)) == len({tuple(job) for job in jobs(expanded)}) > 0


@pytest.mark.parametrize(("name", "suite"), MADE_FOR)
def test_a_sweep_stays_in_its_suite(name, suite):
    expanded = axes(quiet([f"sweep={name}", f"suite={suite}"]))
    folders = {option.partition("/")[0] for option in expanded.get("dataset", [])}
    assert folders <= ({"mini"} if suite == "mini" else {"vtab", "fewshot", "fgvc"})
    assert all(("mini" in option) == (suite == "mini") for option in read_sweep(name, suite).values("backbone"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("title: a", "needs the keys title and axes"), ("title: a\naxes: {seed: 0}\naxis: {}", "needs the keys title and axes"),
     ("title: a\naxes: {dataset: {mini: mini/all}}", "not made for suite=vtab; it knows mini"),
     ("title: a\naxes: {seed: 0}\nrows: {x: {method: lora}}", "own.yaml, row x: give it the keys row, method and extra")],
)  # fmt: skip
def test_a_sweep_file_that_says_it_wrong_is_refused(text, reason, tmp_path, monkeypatch):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "own.yaml").write_text(text)
    monkeypatch.setattr("karst_bench.config.option_files.packaged", lambda name: tmp_path)
    with pytest.raises(UserError, match=reason):
        read_sweep("own", "vtab")


def test_a_row_of_a_sweep_is_an_option_of_experiment():
    (chosen,) = (row for row in sweep_rows() if row.name == "table3/fact_rst")
    cfg = compose([f"experiment={chosen.name}"])
    assert (cfg.method.name, cfg.extra.name) == (chosen.method, chosen.extra) == ("fact_tk", "rst_scalar")
    assert axes(quiet(["sweep=table3", "suite=mini"]))["experiment"] == config.options("experiment")[1:]


def test_a_sweep_is_not_one_configuration():
    with pytest.raises(UserError, match="sweep=table1 is many runs"):
        compose(["sweep=table1"])


def test_table_one_covers_the_suites():
    assert len(axes(quiet(["sweep=table1"]))["dataset"]) == 19
    assert set(axes(quiet(["sweep=table1"]))["dataset"]) == set(axes(quiet(["dataset=vtab/all"]))["dataset"])
    assert set(axes(quiet(["sweep=table1", "suite=mini"]))["dataset"]) == set(
        axes(quiet(["dataset=mini/all"]))["dataset"]
    )


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "figure2", "figure3", "ablate_N", "ablate_m", "ablate_r"])
def test_what_is_printed_of_the_embedded_suite_runs_at_searched_rates(name):
    """VTAB's rates are the methods' own; another choice on the command line holds on both."""
    assert "tuned=ours" in quiet([f"sweep={name}", "suite=mini"]) and "tuned=none" in quiet([f"sweep={name}"])
    own = quiet([f"sweep={name}", "suite=mini", "tuned=none"])
    assert "tuned=none" in own and "tuned=ours" not in own


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "figure3", "ablate_N", "ablate_m", "ablate_r"])
def test_what_is_printed_of_the_embedded_suite_looks_at_the_test_set_on_the_way(name):
    """A suite with null for an axis leaves it to the task, as VTAB does; another choice on the command line holds."""
    of_mini, of_vtab = quiet([f"sweep={name}", "suite=mini"]), quiet([f"sweep={name}"])
    assert "protocol=peek10" in of_mini and not any(word.startswith("protocol=") for word in of_vtab)
    assert "protocol=peek10" not in quiet([f"sweep={name}", "suite=mini", "protocol=last"])


def test_the_command_line_replaces_an_axis():
    expanded = quiet(["sweep=table1", "suite=mini", "method=karst", "seed=7,8"])
    assert axes(expanded)["seed"] == ["7", "8"] and "method=karst" in expanded
    assert len(jobs(expanded)) == 2 * 9
    assert "experiment" not in axes(quiet(["sweep=table3", "suite=mini", "method=karst"]))
    assert quiet(["sweep=figure3", "dataset=mini/digits"])[-1] == "dataset=mini/digits"


def test_absent_methods_are_named_and_left_out(monkeypatch, caplog):
    from karst_bench.config import sweeps

    monkeypatch.setattr(sweeps, "_exists", lambda group, name: name == "karst")
    assert "method=karst" in expand(["sweep=table2", "suite=mini"])
    assert "heat" in caplog.messages[0] and "karst" not in caplog.messages[0].split("here:")[1]
    monkeypatch.setattr(sweeps, "_exists", lambda group, name: False)
    with pytest.raises(UserError, match="0 jobs"):
        quiet(["sweep=table2", "suite=mini"])


@pytest.mark.parametrize(
    ("asked", "count"),
    [("vtab/all", 19), ("vtab/natural", 7), ("vtab/specialized", 4), ("vtab/structured", 8), ("fewshot/all", 5),
     ("mini/all", 9), ("vtab/natural,vtab/svhn", 7), ("vtab/all,fewshot/pets", 20), ("glob(vtab/dsprites*)", 2),
     ("glob([vtab/dsprites*,mini/*],exclude=[mini/fs_*,mini/d*])", 9)],
)  # fmt: skip
def test_task_groups_are_spelt_out(asked, count):
    expanded = quiet(["method=karst", f"dataset={asked}"])
    assert expanded[0] == MULTIRUN and len(jobs(expanded)) == count


def test_a_comma_within_one_value_makes_no_sweep():
    words = ["method=lora", "dataset=mini/digits", "backbone.model_args={depth:2,num_heads:2}", "method.r=1000000000"]
    assert MULTIRUN not in quiet(words) and len(jobs(quiet(words))) == 1


def test_options_of_any_group_are_globbed():
    assert len(axes(quiet(["experiment=glob(table3/*)"]))["experiment"]) > 2
    assert axes(quiet(["backbone=glob(*_mini)"])) == {"backbone": ["swin_mini", "vit_mini"]}


BUDGETS = ["method=spt_lora,spt_adapter", "method.budget=30000", "++method.dropout=0.5"]


def test_a_key_below_a_swept_option_is_the_runs_alone():
    assert left_to_runs(BUDGETS) == [BUDGETS[0], "method.budget=choice(30000)", "++method.dropout=choice(0.5)"]
    assert jobs(left_to_runs(BUDGETS)) == jobs(BUDGETS)
    for words in (["method=lora", "method.r=4", "seed=0,1"], ["method=lora,dora", "seed=3"], ["method=lora,dora", "method.r=1,2"]):
        assert left_to_runs(words) == words


@pytest.mark.parametrize(
    ("words", "names"),
    [(["method=karst,spt_lora,lora", "method.budget=3"], "method=karst,lora: unknown key method.budget.*hold for method=spt_lora:"),
     (["method=lora,linear", "seed=0,1", "method.r=2,4"], "method=linear: unknown key method.r"),
     (["experiment=table3/fact,table3/fact_rst", "method.N=2"], "experiment=table3/fact,table3/fact_rst: unknown key method.N")],
)  # fmt: skip
def test_options_that_lack_a_key_are_named(words, names):
    with pytest.raises(UserError, match=names):
        check_swept_options(words)


def test_runs_of_one_model_are_counted_whatever_their_data_and_seeds():
    words = ["method=karst,lora", "recipe.batch=32,64", "dataset=mini/digits,mini/cells", "recipe.lr=1e-3,1e-2", "seed=0,1,2"]
    alike = runs_alike(words)
    assert [alike(job) for job in jobs(words)] == [2 * 2 * 3] * 48
    assert runs_alike(["method=karst", "seed=0"])(["method=karst", "seed=0"]) == 1


def test_other_words_pass_unchanged():
    for words in (["method=karst", "dataset=vtab/cifar100"], ["method=lora,karst", "seed=0,1"], ["method.sites=[q,v]"]):
        assert quiet(words) == words


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["dataset=glob(vtab/nothing*)"], "0 jobs.*Valid: "),
        (["dataset=vtab/fewshot"], "0 jobs.*no such task group"),
        (["dataset=nowhere/all"], "0 jobs"),
        (["seed=range(0)"], "0 jobs"),
        (["sweep=tabel1"], r"unknown; did you mean table1\? Valid: ablate_N"),
        (["sweep=table1,table2", "suite=mini"], "one sweep at a time.*run sweep=table1 then sweep=table2"),
        (["sweep=table1", "suite=mni"], "suite=mni is not a choice; use one of vtab, mini"),
        (["method=[a"], "does not read"),
    ],
)
def test_a_sweep_of_nothing_is_an_error(words, reason):
    with pytest.raises(UserError, match=reason):
        quiet(words)


def test_joblib_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    joblib = ["seed=0,1", "hydra/launcher=joblib"]
    assert quiet([*joblib, "hydra.launcher.n_jobs=2"])[-1] == "threads=4"
    assert quiet(joblib)[-1] == "threads=1"
    assert quiet([*joblib, "threads=3"])[-1] == "threads=3"
    assert ["seed=0", "threads=1"] in jobs(quiet(joblib))
