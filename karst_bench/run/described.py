"""What a run writes into its adapter's header, so that the file alone says what it is."""

from collections.abc import Mapping
from typing import Any

from karst_bench.adapt.adapter_about import AboutBackbone, AboutDataset, AboutScore, AdapterAbout, about_text
from karst_bench.adapt.backbone import built_with
from karst_bench.engine.evaluate import Score
from karst_bench.records import provenance
from karst_bench.run.prepare import PreparedRun


def about_run(prepared: PreparedRun, score: Score) -> str:
    """The JSON of adapt/adapter_about.py, without any place or time: equal runs write equal files."""
    settings, task = prepared.settings, prepared.task
    backbone, dataset = settings.backbone, settings.dataset
    weights = str(backbone["weights"])
    about = AdapterAbout(
        backbone=AboutBackbone(
            name=backbone["name"], timm_name=backbone["timm_name"], tag=backbone.get("tag"),
            model_args=built_with(backbone)[1], input_size=backbone["input_size"], mean=tuple(backbone["mean"]),
            std=tuple(backbone["std"]), sha256=prepared.weights_sha256,
            weights=weights if weights in ("pretrained", "none") else "file",
        ),
        dataset=AboutDataset(
            name=dataset["name"], classes=task.classes, transform=dataset.get("transform"), white=dataset.get("white"),
            class_names=known_class_names(dataset), licence=dataset.get("licence"), list_sha256=task.list_sha256,
        ),
        normalization=settings.normalization, mean=tuple(prepared.mean), std=tuple(prepared.std), seed=settings.seed,
        scores=(AboutScore(split=prepared.plan.final, top1_pct=score.top1_pct, n=score.n),),
        record=prepared.id, suite=settings.suite, versions=_versions(),
    )  # fmt: skip
    return about_text(about)


def known_class_names(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """What a set's classes are called, by label: its configuration's label_names, or the embedded suite's; empty if unknown."""
    if names := dataset.get("label_names"):
        return tuple(str(name) for name in names)
    if dataset.get("source") == "mini":
        from karst_bench.data.mini.names import class_names

        return class_names(str(dataset["task"]))
    return ()


def _versions() -> dict[str, str]:
    found = provenance.collect()
    own = {} if found.version is None else {"karst_bench": found.version}
    return own | {name: found.packages[name] for name in ("timm", "torch") if name in found.packages}
