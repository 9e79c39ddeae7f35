"""What frozen features give on embedded tasks as they are, or made harder or easier: for choosing a difficulty.

    python scripts/mini_difficulty.py digits textures:noise=24 textures:noise=32,contrast=30

Each word is a task, with values of `dataset.difficulty` that replace its YAML's. Printed for each: top-1 (%) on val200
of a ridge classifier on the standardised pooled features of train800 (its strength, 10 to 5000, chosen on the same
200), on both small backbones (weights=none: with random weights, seed 0). The test split is neither drawn nor read. What
training adds is asked of run.py:

    python run.py method=karst dataset=mini/textures dataset.difficulty.noise=32 protocol=val recipe.lr=1e-2
"""

from typing import Annotated

import typer

from karst_bench.cli.app import generator

Words = Annotated[list[str] | None, typer.Argument(metavar="TASK[:KEY=VALUE,...]")]


def main(words: Words = None, weights: str = "pretrained") -> None:
    """Print what frozen features give on embedded tasks, as they are or with other values of difficulty; a line a word."""
    import torch  # which --help does without

    from scripts.pretraining.frozen import found_lines

    torch.set_num_threads(1)
    for line in found_lines(words or [], weights):
        print(line, flush=True)


if __name__ == "__main__":
    generator(main)
