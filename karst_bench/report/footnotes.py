"""What a row of a table stands on, as a letter and a line below the table."""

from karst_bench.report.statistics.aggregate import MethodResults


class Footnotes:
    """Letters for what a number stands on (weights, recipe, protocol, normalisation, encoding, code ...)."""

    def __init__(self) -> None:
        self.letters: dict[tuple[tuple[str, str], ...], str] = {}

    def keys(self, row: MethodResults) -> str:
        """The letters of a row, a new one for each new combination."""
        provenance_keys = sorted({run.provenance_key for run in row.runs})
        found = [
            self.letters.setdefault(provenance_key, letter(len(self.letters))) for provenance_key in provenance_keys
        ]
        return ",".join(sorted(found, key=lambda key: (len(key), key)))

    def notes(self) -> list[str]:
        """One line per letter."""
        return [
            f"[{key}] " + ", ".join(f"{k}={v}" for k, v in provenance_key)
            for provenance_key, key in self.letters.items()
        ]


def letter(index: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    return (letter(index // 26 - 1) if index >= 26 else "") + "abcdefghijklmnopqrstuvwxyz"[index % 26]
