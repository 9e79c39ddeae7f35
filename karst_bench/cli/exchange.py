"""`karst-bench compare`, `check`, `reproduce`, `export` and `import`: records against records, against what was predicted and
against another run, out of here, and in from elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from karst_bench.errors import UserError


def expanded(text: str) -> Path:
    """A path of the command line; ~ is a home folder."""
    return Path(text).expanduser()


Results = Annotated[
    Path, typer.Option(parser=expanded, envvar="KARST_BENCH_RESULTS", help="The folder of paths.results.")
]
SuiteName = Annotated[str, typer.Option(help="vtab, mini, or the suite of runs of your own.")]


def there(results: Path) -> Path:
    """A results folder to read. Raises: UserError for a named one that is not there; before the first run `results` is not."""
    if not results.is_dir() and results != Path("results"):
        raise UserError(f"results={results}: there is no such folder; give the paths.results that the runs went to")
    return results


def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", help="A folder of records or results, a commit, reference, own, imported, or a suite.")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    suite: SuiteName = "vtab",
    results: Results = Path("results"),
) -> int:
    """Compare two sets of records. Paired by cell and seed; exit code 1 where a method fell beyond its interval.

    Two suites (compare mini vtab) have no cell in common; of them the order of methods is compared.
    """
    from karst_bench.report import regression

    found = regression.compared(*(regression.records_named(name, suite, results) for name in (first, second)))
    print(found.text)
    if not found.changes and not found.order:
        raise UserError("nothing was compared: A and B have no cell in common")
    return int(any(change.fell for change in found.changes))


def check(
    runs: Annotated[Path, typer.Argument(parser=expanded, metavar="RUNS", help="A results folder, or one of records.")],
    data: Annotated[
        Path | None, typer.Option(parser=expanded, help="The folder of paths.data, whose lists say the labels.")
    ] = None,
) -> int:
    """Score finished runs again. From the predictions that save_predictions=true kept; exit code 1 where anything differs.

    Nothing is run: hashes, lists, labels, numbers of images and accuracies are held against each other.
    """
    from karst_bench.run.check import check_runs

    found = check_runs(runs, data=data)
    print(found.text)
    return int(bool(found.differences))


def reproduce(
    words: Annotated[
        list[str], typer.Argument(metavar="RECORD|KEY=VALUE", help="Files or folders; paths.data=DIR, device=cuda, ...")
    ],
    sample: Annotated[int | None, typer.Option(min=1, help="How many of them, drawn at random; default all.")] = None,
    draw: Annotated[int, typer.Option(help="The seed of the draw.")] = 0,
) -> int:
    """Run recorded runs again. From the configuration in the record; prints recorded and new accuracy side by side.

    Exit code 1 where one is neither the same to the last bit nor where a further seed of its cell would lie, or is refused,
    as weights or lists are others here; 2 where all are. The new records go to paths.results, by default
    outputs/reproduced, and are found there the next time.
    """
    from karst_bench.run.reproducing import check_places, chosen_records, reproduce

    keys = [word for word in words if "=" in word]
    check_places(keys)
    chosen = chosen_records([expanded(word) for word in words if word not in keys], sample, draw)
    found = []
    for path in chosen:
        try:
            found.append(reproduce(path, keys))
            print(found[-1].text, flush=True)
        except UserError as error:
            print(f"{path.stem}  refused: {error}", flush=True)
    equal, near = sum(one.equal for one in found), sum(one.holds for one in found)
    differ, refused = len(found) - near, len(chosen) - len(found)
    print(f"{len(chosen)} runs: {equal} bit for bit, {near - equal} within the seeds, {differ} that differ, {refused} refused")
    return 2 if not found else int(near < len(chosen))


def export(
    to: Annotated[Path, typer.Option(parser=expanded, help="The file to write, .json or .csv.")] = Path("cells.json"),
    suite: SuiteName = "vtab",
    records: Annotated[str, typer.Option(help="As for report.")] = "reference,own",
    results: Results = Path("results"),
) -> None:
    """Write all cells to one file. With seeds, intervals, protocol, provenance and ids."""
    from karst_bench.report import exchange
    from karst_bench.report.sources import record_folders, suite_runs

    _, runs, left_out = suite_runs(record_folders(there(results), suite, records), suite)
    cells = exchange.exported_cells(runs)
    exchange.write_export(cells, to)
    print(f"{to}: {len(cells)} cells of {len(runs)} runs; {len(left_out)} files left out")


def import_(
    source: Annotated[Path, typer.Argument(parser=expanded, metavar="FROM", help="A folder of records.")],
    suite: SuiteName = "vtab",
    results: Results = Path("results"),
) -> int:
    """Take in records of others. Checked one by one into <results>/imported; exit code 1 where any is left out.

    karst-bench report records=reference,own,imported reads them too.
    """
    from karst_bench.report import exchange

    copied, left_out = exchange.import_records(source, results / "imported" / suite, suite)
    print("\n".join([f"{len(copied)} records imported", *(f"left out: {line}" for line in left_out)]))
    return int(bool(left_out))
