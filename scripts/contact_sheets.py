"""Draws docs/mini/<task>.png: a row of images for each class of every embedded task, with the class at its left.

    python scripts/contact_sheets.py [out=docs/mini] [columns=12]

The images are the first of each class that training sees (`train800`; the pool of a few-shot set), enlarged twice.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from karst_bench.cli.app import generator
from karst_bench.config.datasets import dataset_config
from karst_bench.config.option_files import options

ZOOM, MARGIN, TOP = 2, 92, 22


def sheet(task: str, node: Mapping[str, Any], columns: int) -> Image.Image:
    """The contact sheet of one task, with its statement on top."""
    from karst_bench.data.mini import GENERATORS, draw  # torch, which --help does without
    from karst_bench.data.mini.difficulty import Difficulty
    from karst_bench.data.mini.drawing import SIDE
    from karst_bench.data.mini.fonts import face
    from karst_bench.data.mini.names import class_names

    generator = GENERATORS[task]
    tile = SIDE * ZOOM
    pixels = draw(
        task, generator, "pool" if node["shots"] else "train800", generator.classes * columns, Difficulty.of(node)
    )
    page = Image.new("RGB", (MARGIN + columns * tile, TOP + generator.classes * tile), "white")
    pen = ImageDraw.Draw(page)
    pen.text((4, 5), f"mini/{task}: {node['label_rule']}", fill="black", font=face("DejaVuSans", 11))
    for label, name in enumerate(class_names(task)):
        pen.text((4, TOP + label * tile + tile // 2), name, fill="black", font=face("DejaVuSans", 11), anchor="lm")
        for column in range(columns):
            image = pixels[column * generator.classes + label].transpose(1, 2, 0)
            big = Image.fromarray(np.ascontiguousarray(image)).resize((tile, tile), Image.Resampling.NEAREST)
            page.paste(big, (MARGIN + column * tile, TOP + label * tile))
    return page


def main(out: Path = Path("docs/mini"), columns: int = 12) -> None:
    """Draw docs/mini/<task>.png: a row of images for each class of every embedded task, with 64 colours to stay small."""
    out.mkdir(parents=True, exist_ok=True)
    for task in (name.removeprefix("mini/") for name in options("dataset") if name.startswith("mini/")):
        page = sheet(task, dataset_config(f"mini/{task}"), columns)
        page.quantize(64, dither=Image.Dither.NONE).save(out / f"{task}.png", optimize=True)
        print(f"{out / task}.png {(out / f'{task}.png').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    generator(main)
