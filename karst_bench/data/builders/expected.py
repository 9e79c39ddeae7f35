"""The labels that VTAB-1K's rule gives where keys and classes are known without the archive: three of the tasks."""

from collections import Counter
from collections.abc import Mapping

from karst_bench.data.builders.sun397 import Sun397
from karst_bench.data.sources.vtab_splits import Key, source_split, split_keys

# EuroSAT's classes and how many pictures each has, numbered from 1 (Helber et al. 2019)
EUROSAT = {
    "AnnualCrop": 3000, "Forest": 3000, "HerbaceousVegetation": 3000, "Highway": 2500, "Industrial": 2500,
    "Pasture": 2000, "PermanentCrop": 2500, "Residential": 3000, "River": 2500, "SeaLake": 3000,
}  # fmt: skip
# NWPU-RESISC45's classes of 700 pictures each (Cheng et al. 2017)
RESISC45 = """
airplane airport baseball_diamond basketball_court beach bridge chaparral church circular_farmland cloud commercial_area
dense_residential desert forest freeway golf_course ground_track_field harbor industrial_area intersection island lake
meadow medium_residential mobile_home_park mountain overpass palace parking_lot railway railway_station
rectangular_farmland river roundabout runway sea_ice ship snowberg sparse_residential stadium storage_tank tennis_court
terrace thermal_power_station wetland
""".split()  # noqa: SIM905 (a list of 45 quoted words would hide that it is one)


def known_examples(task: str, split: str) -> Mapping[Key, int] | None:
    """{key: label} of all examples that `split` of a task is chosen from; None where only the archive tells."""
    if task == "eurosat":
        counts = enumerate(sorted(EUROSAT.items()))
        return {f"{name}_{name}_{n}.jpg": label for label, (name, count) in counts for n in range(1, count + 1)}
    if task == "resisc45":
        return {f"{name}_{name}_{n:03d}.jpg": label for label, name in enumerate(RESISC45) for n in range(1, 701)}
    if task == "sun397":
        return Sun397.listed(source_split(task, split))
    return None


def expected_labels(task: str, split: str) -> Counter[int] | None:
    """How often each label occurs in train800, val200 or test; None where it cannot be known without the archive."""
    examples = known_examples(task, split)
    return None if examples is None else Counter(examples[key] for key in split_keys(task, split, examples))
