#!/usr/bin/env bash
# From photographs in class folders to a table and pictures, in about half a minute on two cores:
#
#   examples/own_photos.sh                  draws its photographs (three kinds of leaves) into outputs/own_photos
#   examples/own_photos.sh DIR [WORDS...]   takes DIR/<class>/*.jpg, or DIR/{train,val,test}/<class>/*.jpg; WORDS go to the runs
#
# Small backbone and recipe, so that a laptop will do; for results: backbone=vit_b16 recipe=petl100 and a GPU.
set -euo pipefail
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
python="${PYTHON:-python}"
out="${OUT:-outputs/own_photos}"
results="$out/results"
photos="${1:-$out/leaves}"
[ $# -gt 0 ] && shift

if [ ! -d "$photos" ]; then
    "$python" - "$photos" <<'PY'
"""Draws 3 x 40 pictures of leaves, whose outline is their class, on grounds that say nothing."""
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

rng = np.random.default_rng(0)
for lobes, name in ((0, "beech"), (3, "maple"), (7, "oak")):
    folder = Path(sys.argv[1], name)
    folder.mkdir(parents=True)
    for number in range(40):
        ground = Image.fromarray(rng.integers(60, 200, (6, 6, 3), dtype=np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
        angle, size = rng.uniform(0, 6.3), rng.uniform(28, 40)
        turn = np.linspace(0, 2 * np.pi, 180)
        radius = size * (1 + 0.28 * np.cos(lobes * turn)) * (0.75 + 0.25 * np.cos(turn) ** 2)
        points = np.stack([48 + radius * np.cos(turn + angle), 48 + radius * np.sin(turn + angle)], axis=1)
        green = tuple(int(value) for value in rng.integers((20, 90, 10), (110, 200, 80)))
        ImageDraw.Draw(ground).polygon([tuple(point) for point in points], fill=green)
        ground.filter(ImageFilter.GaussianBlur(0.8)).save(folder / f"{number:03d}.jpg", quality=92)
PY
fi

"$python" -m karst_bench run -m method=linear,lora,karst dataset=folder "dataset.root=$photos" \
    backbone=vit_mini recipe=mini precision=auto "paths.results=$results" "paths.cache=$out/cache" "$@"
"$python" -m karst_bench report records=own "results=$results"
echo "pictures and tables: $results/report/vtab"
