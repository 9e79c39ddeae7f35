"""Averages, KARST against each other method over seeds and over tasks, and what peeking is worth."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from karst_bench.report.statistics import aggregate, compare, intervals
from karst_bench.report.statistics.aggregate import MethodResults
from karst_bench.report.statistics.compare import Pair
from karst_bench.report.suite import Suite
from karst_bench.report.tables import tuning_notes
from scripts.results_mini.evidence import HERO, KINDS, Evidence, grid, listed, mean_of, p_text, shown

SEED = 20261126


def averages(seen: Evidence) -> str:
    """Every row of Table I that has all tasks, by kind of tuning."""
    parts = []
    for kind, title in KINDS.items():
        rows = seen.rows(kind)
        lines = []
        for row in rows:
            group = aggregate.mean_over(row, seen.suite.task_names, seen.suite.group_weights)
            lines.append([f"`{row.label}`", f"{row.params_m:.4f}", shown(group), shown(mean_of(row, seen.suite))])
        head = f"**With {title}**" if kind == "ours" else f"**At {title}**"
        parts += [f"{head}: {len(rows)} methods with runs on every task.", ""]
        parts += [grid(["method", "parameters (M)", "Avg.", "Set Avg."], lines), ""] if lines else []
        parts += [f"{' '.join(notes)}\n"] if (notes := tuning_notes(rows)) else []
    return "\n".join(parts).rstrip()


def verdicts(seen: Evidence) -> str:
    """Where KARST wins, ties and loses against every other row of its kind, over seeds and over tasks."""
    parts = []
    for kind, title in KINDS.items():
        rows = seen.rows(kind)
        hero = next((row for row in rows if row.method == HERO), None)
        others = [row for row in rows if row is not hero]
        if hero is None or not others:
            parts += [f"With {title}: no KARST on every task beside another method yet.", ""]
            continue
        pairs = hero_pairs(hero, others, seen.suite)
        won, lost = ([pair.second for pair in pairs if told(pair) == which] for which in ("wins", "loses"))
        tied = [pair.second for pair in pairs if told(pair) == "not told apart"]
        single = [pair.second for pair in pairs if told(pair) == "one seed"]
        parts += [
            f"**With {title}**, by Avg., over other seeds on these tasks: KARST wins against {listed(won)}; is not told apart from "
            f"{listed(tied)}; loses to {listed(lost)}; one shared seed and hence no verdict: {listed(single)}.",
            "",
            grid(HEADS, [_verdict_line(pair, hero, row, seen.suite) for pair, row in zip(pairs, others, strict=True)]),
            "",
        ]
    return "\n".join(parts).rstrip()


HEADS = (
    "KARST minus",
    "Avg. ± over seeds",
    "p over seeds",
    "Set Avg. ± over tasks",
    "p over tasks",
    "tasks won",
    "over seeds",
)


def hero_pairs(hero: MethodResults, others: Sequence[MethodResults], suite: Suite) -> list[Pair]:
    """KARST minus each, both tests corrected by Holm over these."""
    scores = {
        row.label: [{run.seed: float(run.last or 0.0) for run in row.tasks[task].runs} for task in suite.task_names]
        for row in (hero, *others)
    }
    named = [(hero.label, row.label) for row in others]
    return compare.compare_pairs(scores, named, suite.group_weights, np.random.default_rng(SEED))


def told(pair: Pair) -> str:
    """wins | loses | not told apart | one seed: by the corrected test over seeds at 5 %."""
    if pair.p_seeds_holm is None:
        return "one seed"
    return "not told apart" if pair.p_seeds_holm >= 1 - intervals.LEVEL else "wins" if pair.difference > 0 else "loses"


def _verdict_line(pair: Pair, hero: MethodResults, other: MethodResults, suite: Suite) -> list[str]:
    means = [[row.tasks[task].estimate.value for task in suite.task_names] for row in (hero, other)]
    won = sum(a > b for a, b in zip(*means, strict=True))
    half = "" if pair.low is None or pair.high is None else f" ± {(pair.high - pair.low) / 2:.1f}"
    tasks = "" if pair.task_half is None else f" ± {pair.task_half:.1f}"
    return [
        f"`{pair.second}`", f"{pair.difference:+.1f}{half}", p_text(pair.p_seeds_holm), f"{pair.flat.value:+.1f}{tasks}",
        p_text(pair.p_tasks_holm), f"{won} of {len(suite.task_names)}", told(pair),
    ]  # fmt: skip


def by_task(seen: Evidence) -> str:
    """KARST beside LoRA and the best other row, task by task."""
    rows = seen.rows("ours")
    hero = next((row for row in rows if row.method == HERO), None)
    lora = next((row for row in rows if row.method == "lora"), None)
    if hero is None or lora is None:
        return "No KARST and LoRA on every task yet."
    lines = []
    for task in seen.suite.task_names:
        one, two = hero.tasks[task], lora.tasks[task]
        scores = [{run.seed: run.last or 0.0 for run in cell.runs} for cell in (one, two)]
        pairs = compare.paired_differences(*scores)
        best = max((row for row in rows if row is not hero), key=lambda row: row.tasks[task].estimate.value)
        lines.append([
            task, shown(one.estimate), shown(two.estimate), shown(intervals.mean_interval(pairs)) if pairs else "—",
            f"`{best.method}` {shown(best.tasks[task].estimate)}",
        ])  # fmt: skip
    return grid(["task", "KARST", "LoRA", "difference, paired seeds", "best other"], lines)


def peeking(seen: Evidence) -> str:
    """What the best of ten looks at the test set adds, and whether it changes the order of methods."""
    tasks = seen.suite.task_names
    found = [(row, aggregate.peeking_gap(row, tasks)) for settings in seen.main.values() for row in settings]
    measured = sorted(
        ((row, gap) for row, gap in found if gap is not None), key=lambda item: (-item[1][1], -item[1][0].value)
    )
    if not measured:
        return "No run of `protocol=peek10` yet: nothing is said."
    lines = [[f"`{row.label}`", shown(gap[0], 2), f"{gap[1]} of {len(tasks)}"] for row, gap in measured]
    gaps = [run.peak - run.last for run in seen.runs if run.peak is not None and run.last is not None]
    quartiles = np.quantile(gaps, [0.25, 0.5, 0.75])
    text = (
        f"{len(gaps)} runs looked at the test set after every tenth of their epochs. The best look lies {np.mean(gaps):.2f} points "
        f"above the last epoch on average (quartiles {quartiles[0]:.2f}, {quartiles[1]:.2f}, {quartiles[2]:.2f}; largest "
        f"{max(gaps):.2f}; in {100 * np.mean(np.asarray(gaps) == 0):.0f} % of the runs the last epoch is the best look). "
        "The tables print the last epoch."
    )
    return "\n".join([text, "", *_order_by_peak(seen), grid(["method", "peak minus last", "tasks measured"], lines)])


def _order_by_peak(seen: Evidence) -> list[str]:
    tasks, weights = seen.suite.task_names, seen.suite.group_weights
    both = [
        (row.label, last.value, peak.value)
        for kind in KINDS for row in seen.rows(kind)
        if (last := aggregate.mean_over(row, tasks, weights)) and (peak := aggregate.peak_over(row, tasks, weights))
    ]  # fmt: skip
    if len(both) < 3:
        return []
    agreed = stats.kendalltau([last for _, last, _ in both], [peak for _, _, peak in both]).statistic
    first = [max(both, key=lambda item: item[at])[0] for at in (1, 2)]
    last, peak = first
    same = f"both put `{last}` first" if last == peak else f"the last epoch puts `{last}` first, the peak `{peak}`"
    return [
        f"Of the {len(both)} rows with both, Avg. by last epoch and by peak agree to Kendall's tau {agreed:.2f}; {same}.",
        "",
    ]
