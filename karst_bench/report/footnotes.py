"""What a row of a table stands on, as a letter and a line below the table."""

from karst_bench.report.aggregate import Row


class Footnotes:
    """Letters for what a number stands on (weights, recipe, protocol, normalisation, encoding, code ...)."""

    def __init__(self) -> None:
        self.letters: dict[tuple[tuple[str, str], ...], str] = {}

    def keys(self, row: Row) -> str:
        """The letters of a row, a new one for each new combination."""
        footings = sorted({run.footing for run in row.runs})
        found = [self.letters.setdefault(footing, letter(len(self.letters))) for footing in footings]
        return ",".join(sorted(found, key=lambda key: (len(key), key)))

    def notes(self) -> list[str]:
        """One line per letter."""
        return [f"[{key}] " + ", ".join(f"{k}={v}" for k, v in footing) for footing, key in self.letters.items()]


def letter(index: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    return (letter(index // 26 - 1) if index >= 26 else "") + "abcdefghijklmnopqrstuvwxyz"[index % 26]
