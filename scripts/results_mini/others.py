"""Few-shot curves, kernels, the second backbone, re-scaling."""

from karst_bench.report import figure_data
from karst_bench.report.statistics import aggregate
from karst_bench.report.suite import KERNELS, planned_rows
from scripts.results_mini.accuracy import hero_pairs, told
from scripts.results_mini.evidence import Evidence, grid, shown


def few_shot(seen: Evidence) -> str:
    """Figure 2's averages over the sets."""
    curves = figure_data.few_shot_curves(seen.placed.few_shot, seen.suite)
    if not curves.methods:
        return "No runs yet."
    title, panel = list(curves.panels.items())[-1]
    if not panel:
        return "No shots with runs on every set yet."
    lines = [[f"`{method}`", *(shown(points.get(n)) for n in curves.shots)] for method, points in panel.items()]
    there = sorted({n for points in panel.values() for n in points})
    best = {
        n: max((points[n].value, method) for method, points in panel.items() if n in points)
        for n in (there[0], there[-1])
    }
    ends = "; ".join(f"highest at {n} shot{'s' if n > 1 else ''}: `{method}`" for n, (_, method) in best.items())
    heads = ["method", *(f"{n}-shot" for n in curves.shots)]
    return "\n".join([f"{title}, mean over split seeds ({ends}; a first place is no test).", "", grid(heads, lines)])


def kernels(seen: Evidence) -> str:
    """Figure 3 and the ablation: accuracy over N and over the parameters."""
    (method,) = seen.suite.sweeps[KERNELS].values("method")
    whole = figure_data.ablation_grid(seen.main, seen.suite, method)
    if len(whole.points) < 2:
        return "No runs of more than one N, m, r yet."
    lines = [[point.label, f"{point.params_m:.4f}", shown(point.accuracy, 2)] for point in whole.points]
    return "\n".join([f"Accuracy: {whole.average}.", "", grid(["setting", "parameters (M)", "top-1"], lines)])


def swin(seen: Evidence) -> str:
    """Table II: averages on the second backbone."""
    return _other_table(seen, "table2")


def rescaling(seen: Evidence) -> str:
    """Table III: averages, and what re-scaling adds over shared seeds; its rows come without and with it, in pairs."""
    planned = [row.method for row in planned_rows(seen.suite.sweeps["table3"])]
    found = {method: settings[0] for method, settings in seen.placed.tables["table3"].items()}
    lines = []
    for without, scaled in zip(planned[::2], planned[1::2], strict=True):
        rows = [found[name] for name in (scaled, without) if name in found]
        if len(rows) == 2 and all(set(seen.suite.task_names) <= set(row.tasks) for row in rows):
            (pair,) = hero_pairs(rows[0], rows[1:], seen.suite)
            half = "" if pair.low is None or pair.high is None else f" ± {(pair.high - pair.low) / 2:.1f}"
            names = f"`{rows[0].label}` minus `{rows[1].label}`"
            lines.append(f"- {names}: {pair.difference:+.1f}{half} points of Avg. ({told(pair)}).")
    return "\n".join([_other_table(seen, "table3"), "", *lines]).rstrip()


def _other_table(seen: Evidence, name: str) -> str:
    sweep = seen.suite.sweeps[name]
    suite = seen.suite.of_table(sweep)
    lines = []
    for row in planned_rows(sweep):
        for results in seen.placed.tables[name].get(row.method, [])[:1]:
            mean = aggregate.mean_over(results, suite.task_names, suite.group_weights)
            lines.append([f"`{results.label}`", shown(mean), f"{len(results.tasks)} of {len(suite.tasks)}"])
    return grid(["method", "Avg.", "tasks"], lines) if lines else "No runs yet."
