"""`karst-bench`: every command of the suite. A command loads what it needs when it is called, so that help is instant."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from karst_bench import __version__
from karst_bench.cli import exchange, shells
from karst_bench.cli.console import attach_console
from karst_bench.cli.outcome import asks_for_debug, exit_code, leave
from karst_bench.cli.words import KeyValueCommand, OverrideCommand
from karst_bench.errors import UserError

PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True}


def typer_app(**options: Any) -> typer.Typer:
    """A typer application in the suite's manner: plain help, no tracebacks of its own."""
    names = {"help_option_names": ["-h", "--help"]}
    return typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, context_settings=names, **options
    )


app = typer_app()
data_app, weights_app = typer_app(), typer_app()
app.add_typer(data_app, name="data", help="Check data sets and bring them into place.")
app.add_typer(weights_app, name="weights", help="Fetch and check backbone weights.")


Words = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Words as for run.")]
Root = Annotated[Path, typer.Argument(parser=exchange.expanded, metavar="root=DIR", help="The folder of paths.data.")]
Tasks = Annotated[
    str | None, typer.Option("--tasks", "--task", help="Sets by name, comma-separated: cifar100,fewshot/pets. Default: all.")
]
Images = Annotated[bool, typer.Option("--images/--no-images", help="Open every image, or read the lists only.")]
Weights = Annotated[Path, typer.Option("--out", parser=exchange.expanded, help="The folder of paths.weights.")]


@app.callback()
def _suite(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Parameter-efficient fine-tuning of vision transformers, compared honestly."""


@app.command(cls=OverrideCommand, context_settings=PASSED_ON, add_help_option=False)
def run(ctx: typer.Context) -> int:
    """Train, evaluate, describe, merge or predict. Every word goes to Hydra; run --help lists all options."""
    from karst_bench.cli import hydra_app

    return hydra_app.main(ctx.args)


@app.command(cls=OverrideCommand)
def sweep(words: Words = None) -> None:
    """List what a sweep would run. Each line says what is done or how long it will take.

    karst-bench sweep names the sweeps; karst-bench sweep table1 suite=mini lists one.
    """
    from karst_bench.cli import plans

    print(plans.listing(words or []))


@app.command(cls=OverrideCommand)
def status(
    words: Words = None,
    results: Annotated[
        Path | None, typer.Option(parser=exchange.expanded, help="As paths.results; default KARST_BENCH_RESULTS, else ./results.")
    ] = None,
    records: Annotated[str, typer.Option(help="As for report; own: what a run would find done.")] = "reference,own",
) -> None:
    """Show how far a sweep is. Methods x tasks: done, running, failed, missing, and the commands for the gaps.

    karst-bench status suite=mini shows Table I's; sweep=NAME another, method= and dataset= one of your own.
    """
    from karst_bench.cli import plans

    print(plans.matrix(words or [], results, records))


@app.command(cls=OverrideCommand, no_args_is_help=True)
def tune(
    words: Words = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Size of the study, over all workers; default 30.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    table: Annotated[Path | None, typer.Option(parser=exchange.expanded, help="Where the result goes.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Run no trial; make the table of those there are.")] = False,
    join: Annotated[bool, typer.Option("--join", hidden=True)] = False,
) -> int:
    """Search hyper-parameters on the val split. The test split is never read; a stopped study goes on where it was.

    A key that is given is not searched; several values (recipe.lr=3e-3,1e-2) make the study their grid. The same
    command on another machine with the same results folder joins in.
    """
    from karst_bench.cli import search

    return search.tune(words or [], trials=trials, workers=workers, table=table, join=join, write=write)


@app.command(cls=KeyValueCommand)
def report(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[diff paper]", help="Show every cell beside the printed one.")
    ] = None,
    suite: exchange.SuiteName = "vtab",
    results: exchange.Results = Path("results"),
    records: Annotated[
        str, typer.Option(help="own (results/runs), reference (results/reference), imported, or several: own,reference.")
    ] = "reference,own",
    contrasts: Annotated[
        str,
        typer.Option(
            "--contrasts",
            "--report.contrasts",
            help="Pairs to compare: karst:lora,ssf:lora. Default: those of the sweep's YAML or conf/config.yaml, else LoRA.",
        ),
    ] = "",
    tasks: Annotated[
        str, typer.Option(help="Datasets that are a suite of their own, and nothing else: vtab/caltech101,vtab/dtd,mine/leaves.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(parser=exchange.expanded, help="Where to write; default <results>/report/<suite>.")
    ] = None,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Draw the figures too.")] = True,
) -> None:
    """Make tables, figures and statistics. They come from the records alone and go to <results>/report/<suite>."""
    from karst_bench.config.datasets import dataset_members
    from karst_bench.report.report import terminal_text, write_report
    from karst_bench.report.sources import record_folders

    if words not in (None, [], ["diff", "paper"]):
        raise UserError(f"report {' '.join(words or [])}: the one thing to add is diff paper; the rest is key=value: suite=vtab")
    named = tuple(dict.fromkeys(o for name in tasks.split(",") if name.strip() for o in dataset_members(name.strip())))
    to = out or results / "report" / (f"{suite}_named" if named else suite)
    made = write_report(suite, record_folders(exchange.there(results), suite, records), to, pictures, contrasts, results, named)
    print(terminal_text(made, sys.stdout.isatty(), "paper_diff" if words else ""))


app.command(cls=KeyValueCommand, no_args_is_help=True)(exchange.compare)
app.command(cls=KeyValueCommand, no_args_is_help=True)(exchange.check)
app.command(cls=OverrideCommand, no_args_is_help=True)(exchange.reproduce)
app.command(cls=KeyValueCommand)(exchange.export)
app.command("import", cls=KeyValueCommand, no_args_is_help=True)(exchange.import_)


@data_app.command(cls=KeyValueCommand, no_args_is_help=True)
def audit(
    root: Root,
    tasks: Tasks = None,
    images: Images = True,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> int:
    """Look at every list and image once. When that was is kept in audit.json; exit code 1 where something is wrong."""
    from karst_bench.cli import datasets

    return datasets.audit(root, tasks, images=images, as_json=json)


@data_app.command(cls=KeyValueCommand, no_args_is_help=True)
def prepare(
    root: Root,
    tasks: Annotated[str, typer.Option("--tasks", "--task", help="all (VTAB-1K), cifar100,dtd, vtab/natural, fgvc/all, ...")],
    source: Annotated[str, typer.Option(help="raw: original archives; zip: the distributed folders; tfds.")] = "raw",
    encoding: Annotated[str, typer.Option(help="png: every pixel; jpeg75: as the distributed folders.")] = "png",
    archive: Annotated[
        str | None, typer.Option(help="A file or folder at hand; for source=zip also an address, hub or drive.")
    ] = None,
    lists: Annotated[
        Path | None, typer.Option(parser=exchange.expanded, help="VPT's JSON lists of the fgvc sets: a folder or zip.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="hf: write parquet files too.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Refuse files that differ from the published ones.")
    ] = True,
) -> int:
    """Bring sets into place. From the archives as their authors publish them, fetched or at hand.

    What is there is left alone, and what was broken off is gone on with. docs/data_sources.md says what each set takes.
    Exit code 1 unless all are ready.
    """
    from karst_bench.cli import data_sources

    given = None if archive is None else archive if "://" in archive else str(exchange.expanded(archive))
    return data_sources.prepare_sets(
        root, tasks, source=source, encoding=encoding, archive=given, lists=lists, to=to, verify=verify
    )


@data_app.command("status", cls=KeyValueCommand, no_args_is_help=True)
def data_status(root: Root, tasks: Tasks = None) -> int:
    """Show what is here of each set. From where, how it is stored, and when it was audited; exit code 1 unless all are here."""
    from karst_bench.cli import data_sources

    return data_sources.sets_status(root, tasks)


@data_app.command(cls=KeyValueCommand, no_args_is_help=True)
def lists(
    root: Annotated[Path, typer.Argument(parser=exchange.expanded, metavar="root=DIR", help="Class folders, or a CSV.")],
    to: Annotated[Path | None, typer.Option(parser=exchange.expanded, help="Where they go; default beside the pictures.")] = None,
    shots: Annotated[int | None, typer.Option(help="Training images of each class.")] = None,
    limit: Annotated[int | None, typer.Option(help="Images to fit and validate: 1000 are 800 and 200.")] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn, as dataset.split_seed.")] = 0,
) -> int:
    """Write lists of class folders or a CSV. train.txt, val.txt, test.txt and classes.txt, split as dataset=folder splits them."""
    from karst_bench.cli import datasets

    sizes = {"shots": shots, "limit": limit, "split_seed": seed}
    words = [f"dataset.{key}={value}" for key, value in sizes.items() if value is not None]
    return datasets.own_lists(root, to, words)


@data_app.command(cls=KeyValueCommand, no_args_is_help=True)
def fewshot(
    root: Root,
    tasks: Tasks = None,
    archives: Annotated[
        Path | None, typer.Option(parser=exchange.expanded, help="Where the original archives lie; default DIR.")
    ] = None,
    lists: Annotated[str | None, typer.Option(help="The published lists from another folder or address.")] = None,
) -> int:
    """Bring the five few-shot sets into place.

    Fetches and checks the published lists, finds the images in any of the usual layouts, or unpacks the original archives.
    Exit code 1 unless all images are there.
    """
    from karst_bench.cli import datasets

    return datasets.prepare_fewshot(root, tasks, archives=archives or root, lists=lists)


@weights_app.command(cls=KeyValueCommand, no_args_is_help=True)
def fetch(
    tag: Annotated[
        str | None, typer.Argument(metavar="TAG", help="timm's full name: vit_base_patch16_224.orig_in21k.")
    ] = None,
    out: Weights = Path("weights"),
    url: Annotated[str | None, typer.Option(help="Fetch the file from here instead of the hub.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check every file that was fetched against its recorded SHA-256.")
    ] = False,
) -> None:
    """Fetch a backbone's weights. A broken download is continued; a run finds them there by itself."""
    from karst_bench.cli import weights

    weights.fetch(tag, out, url=url, check=check)


@app.command(cls=KeyValueCommand)
def demo() -> None:
    """Train KARST and a linear probe. On an embedded task, into outputs/demo: nothing to download, about a minute."""
    from karst_bench.cli import demonstration

    demonstration.show()


app.command(no_args_is_help=True)(shells.completion)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line, by default this process's, and returns its exit code."""
    return _call(app, list(sys.argv[1:] if arguments is None else arguments), "karst-bench")


def door(*words: str) -> None:
    """A process's way in, and a documented script's: `python scripts/status.py ...` is `karst-bench status ...`."""
    leave(main([*words, *sys.argv[1:]]))


def generator(function: Callable[..., object]) -> None:
    """A script of this repository as a command of its own; see `call`."""
    sys.exit(call(function, sys.argv[1:]))


def call(function: Callable[..., object], words: Sequence[str], name: str | None = None) -> int:
    """Calls a function with a command line: its parameters are the options, its docstring the help; returns the exit code."""
    single = typer_app()
    single.command(cls=KeyValueCommand)(function)
    return _call(single, list(words), name)


def _call(application: typer.Typer, words: list[str], name: str | None) -> int:
    debug = asks_for_debug(words)
    attach_console(debug=debug)
    if "--version" in words:
        print(f"karst_bench {__version__}")
        return 0
    try:
        return exit_code(lambda: application(args=words, prog_name=name, obj=debug), debug=debug)
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
