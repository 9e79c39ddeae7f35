"""Original archives in miniature, in their true formats: each writes its files and says what they hold."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

Key = int | str


@dataclass
class Original:
    """What an archive holds: {(split of the set, key): label}, and the pixels of each picture, (h, w) or (h, w, 3)."""

    labels: dict[tuple[str, Key], int] = field(default_factory=dict)
    pixels: dict[tuple[str, Key], np.ndarray] = field(default_factory=dict)

    def add(self, split: str, key: Key, label: int, pixels: np.ndarray) -> None:
        self.labels[split, key] = label
        self.pixels[split, key] = pixels


def draw(number: int, shape: tuple[int, ...] = (12, 16, 3)) -> np.ndarray:
    """A smooth picture that no other number gives."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((shape[1], shape[0]))
    array = np.asarray(image if len(shape) == 3 else image.convert("L")).copy()
    array.reshape(-1)[:3] = [number >> 16 & 255, number >> 8 & 255, number & 255]
    return array


def stored(pixels: np.ndarray, kind: str = "JPEG") -> tuple[bytes, np.ndarray]:
    """An image file, and the pixels that it gives back."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **({"quality": 95} if kind == "JPEG" else {}))
    with Image.open(io.BytesIO(out.getvalue())) as image:
        return out.getvalue(), np.asarray(image)


def tar(path: Path, files: Mapping[str, bytes], mode: str = "w:gz") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def pack(path: Path, files: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def cifar100(folder: Path) -> Original:
    found, files, number = Original(), {}, 0
    for split, count in (("train", 60), ("test", 10)):
        body = b""
        for key in range(count):
            image = draw(number, (32, 32, 3))
            found.add(split, key, number % 100, image)
            body += bytes([7, number % 100]) + image.transpose(2, 0, 1).tobytes()
            number += 1
        files[f"cifar-100-binary/{split}.bin"] = body
    files["cifar-100-binary/fine_label_names.txt"] = b"apple\n"
    tar(folder / "cifar-100-binary.tar.gz", files)
    return found


def svhn(folder: Path) -> Original:
    found, number = Original(), 0
    for split, count in (("train", 40), ("test", 12)):
        images, digits = np.zeros((32, 32, 3, count), np.uint8), np.zeros((count, 1), np.uint8)
        for key in range(count):
            images[..., key] = draw(number, (32, 32, 3))
            digits[key] = number % 10 + 1
            found.add(split, key, (number % 10 + 1) % 10, images[..., key])
            number += 1
        scipy.io.savemat(folder / f"{split}_32x32.mat", {"X": images, "y": digits}, do_compression=True)
    return found


def caltech101(folder: Path) -> Original:
    """Splits are the builder's own draw; here every picture is noted under "all"."""
    found, files, number = Original(), {}, 0
    names = ["BACKGROUND_Google", "Faces", *(f"class_{n:03d}" for n in range(100))]
    for label, name in enumerate(sorted(names, key=str.lower)):
        for picture in range(1, 5):
            data, pixels = stored(draw(number, (8, 8, 3)))
            files[f"101_ObjectCategories/{name}/image_{picture:04d}.jpg"] = data
            found.add("all", f"{name}/image_{picture:04d}.jpg", label, pixels)
            number += 1
    files["101_ObjectCategories/BACKGROUND_Google/tmp"] = b"stray"
    inner = folder / "101_ObjectCategories.tar.gz"
    tar(inner, files)
    pack(
        folder / "caltech-101.zip",
        {"caltech-101/101_ObjectCategories.tar.gz": inner.read_bytes(), "caltech-101/show.m": b"%"},
    )
    inner.unlink()
    return found


def dtd(folder: Path) -> Original:
    found, files, lists, number = Original(), {}, {}, 0
    for split, name in (("train", "train1"), ("validation", "val1"), ("test", "test1")):
        for label in range(47):
            key = f"tex{label:02d}/tex{label:02d}_{number:04d}.jpg"
            data, pixels = stored(draw(number))
            files[f"dtd/images/{key}"] = data
            lists.setdefault(name, []).append(key)
            found.add(split, key, label, pixels)
            number += 1
    files |= {f"dtd/labels/{name}.txt": ("\n".join(lines) + "\n").encode() for name, lines in lists.items()}
    files["dtd/labels/train2.txt"] = b"wrong/wrong_0001.jpg\n"
    tar(folder / "dtd-r1.0.1.tar.gz", files)
    return found


def flowers102(folder: Path) -> Original:
    found, files = Original(), {}
    ids = {"trnid": range(1, 103), "valid": range(103, 205), "tstid": range(205, 307)}
    names = {"trnid": "train", "valid": "validation", "tstid": "test"}
    classes = np.array([[(number - 1) % 102 + 1 for number in range(1, 307)]], dtype=np.uint8)
    for name, numbers in ids.items():
        for number in numbers:
            data, pixels = stored(draw(number))
            files[f"jpg/image_{number:05d}.jpg"] = data
            found.add(names[name], f"image_{number:05d}.jpg", int(classes[0, number - 1]) - 1, pixels)
    tar(folder / "102flowers.tgz", files)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": classes})
    scipy.io.savemat(
        folder / "setid.mat", {name: np.array([list(numbers)], np.uint16) for name, numbers in ids.items()}
    )
    return found


def pets(folder: Path) -> Original:
    found, files, number = Original(), {}, 0
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for split, times in (("train", 3), ("test", 1)):
        for label in range(37):
            for _ in range(times):
                name = f"{'Cat' if label % 2 else 'dog'}{chr(97 + label % 26)}_{number}"
                kind = "PNG" if number % 50 == 7 else "JPEG"  # a few files are not what their name says
                data, pixels = stored(draw(number), kind)
                files[f"images/{name}.jpg"] = data
                files[f"images/._{name}.jpg"] = b"resource fork"
                lines[split].append(f"{name} {label + 1} 1 1")
                found.add(split, f"{name}.jpg", label, pixels)
                number += 1
    tar(folder / "images.tar.gz", files, "w")  # named .gz, but plain
    tar(folder / "annotations.tar.gz", {
        "annotations/list.txt": b"#Image CLASS-ID\n",
        "annotations/trainval.txt": "\n".join(lines["train"]).encode(),
        "annotations/test.txt": "\n".join(lines["test"]).encode(),
    })  # fmt: skip
    return found


def sun397(folder: Path) -> Original:
    """Also writes the three lists, which tensorflow-datasets ships for the true set."""
    found, files, number = Original(), {}, 0
    lists: dict[str, list[str]] = {"tr": [], "va": [], "te": []}
    names = {"tr": "train", "va": "validation", "te": "test"}
    for split, lines in lists.items():
        for label in range(397):
            key = f"/{chr(97 + label // 16)}/c{label:03d}/sun_{number:06d}.jpg"
            data, pixels = stored(draw(number, (8, 8, 3)))
            files[f"SUN397{key}"] = data
            lines.append(key)
            found.add(names[split], key, label, pixels)
            number += 1
    tar(folder / "SUN397.tar.gz", files)
    for split, lines in lists.items():
        (folder / f"sun397_tfds_{split}.txt").write_text("\n".join(lines) + "\n")
    return found


def camelyon(folder: Path) -> Original:
    import h5py

    found, number = Original(), 0
    for split, name, count in (("train", "train", 20), ("validation", "valid", 8), ("test", "test", 6)):
        images = np.stack([draw(number + i, (96, 96, 3)) for i in range(count)])
        labels = np.array([(number + i) % 2 for i in range(count)], np.uint8).reshape(-1, 1, 1, 1)
        for part, key, values in (("x", "x", images), ("y", "y", labels)):
            out = io.BytesIO()
            with h5py.File(out, "w") as file:
                file[key] = values
            packed = gzip.compress(out.getvalue(), 1)
            (folder / f"camelyonpatch_level_2_split_{name}_{part}.h5.gz").write_bytes(packed)
        for i in range(count):
            found.add(split, f"{name}_{i}", int(labels[i, 0, 0, 0]), images[i])
        number += count
    return found


def eurosat(folder: Path) -> Original:
    names = ("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop",
             "Residential", "River", "SeaLake")  # fmt: skip
    found, files, number = Original(), {}, 0
    for label, name in enumerate(names):
        for picture in range(1, 7):
            data, pixels = stored(draw(number, (64, 64, 3)))
            files[f"2750/{name}/{name}_{picture}.jpg"] = data
            found.add("train", f"{name}_{name}_{picture}.jpg", label, pixels)
            number += 1
    pack(folder / "EuroSAT.zip", files)
    return found


def resisc45(folder: Path) -> Original:
    found, number = Original(), 0
    for label in range(45):
        name = f"place_{chr(97 + label // 26)}{chr(97 + label % 26)}" if label else "airplane"
        for picture in range(1, 4):
            data, pixels = stored(draw(number, (256, 256, 3)))
            path = folder / "NWPU-RESISC45" / name / f"{name}_{picture:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            found.add("train", f"{name}_{name}_{picture:03d}.jpg", label, pixels)
            number += 1
    return found


def retinopathy(folder: Path) -> Original:
    """Round bright eyes on black, at a size that the processing has to scale."""
    found, rows, number = Original(), {"train": ["image,level"], "test": ["image,level,Usage"]}, 0
    files: dict[str, dict[str, bytes]] = {"train": {}, "test": {}}
    for split, part, usage, count in (
        ("train", "train", "", 2),
        ("validation", "test", "Public", 2),
        ("test", "test", "Private", 2),
    ):
        for _ in range(count):
            name = f"{number // 2}_{'left' if number % 2 == 0 else 'right'}"
            y, x = np.ogrid[:96, :128]
            eye = ((y - 48) ** 2 + (x - 64) ** 2 < 44**2)[..., None]
            data, _pixels = stored((np.maximum(draw(number, (96, 128, 3)), 60) * eye).astype(np.uint8))
            files[part][f"{part}/{name}.jpeg"] = data
            rows[part].append(f"{name},{number % 5}" + (f",{usage}" if usage else ""))
            found.labels[split, name] = number % 5
            number += 1
    pack(folder / "train.zip", files["train"])
    pack(folder / "test.zip", files["test"])
    (folder / "trainLabels.csv").write_text("\n".join(rows["train"]) + "\n")
    (folder / "retinopathy_solution.csv").write_text("\n".join(rows["test"]) + "\n")
    return found


CLEVR_DEPTHS = (7.0, 8.0, 8.25, 8.5, 8.75, 9.0, 9.25, 9.5, 9.75, 10.0, 10.5, 12.0)
CLEVR_STEPS = (
    0,
    0,
    1,
    1,
    2,
    2,
    3,
    3,
    4,
    4,
    5,
    5,
)  # thresholds 8, 8.5, 9, 9.5, 10: the label is that of the depth <= it


def clevr(folder: Path, task: str) -> Original:
    found, files, number = Original(), {}, 0
    for split, name, count in (("train", "train", 40), ("validation", "val", 24)):
        scenes = []
        for picture in range(count):
            file = f"CLEVR_{name}_{picture:06d}.png"
            things = 3 + number % 8
            depths = [CLEVR_DEPTHS[number % 12], *([13.0] * (things - 1))]
            rgba = np.dstack([draw(number), np.full((12, 16), 255, np.uint8)])
            data, pixels = stored(rgba, "PNG")
            files[f"CLEVR_v1.0/images/{name}/{file}"] = data
            objects = [
                {"color": "red", "pixel_coords": [1, 2, depth], "3d_coords": [0.0, 0, 1]} for depth in depths[::-1]
            ]
            scenes.append({"image_index": picture, "objects": objects, "image_filename": file, "split": name})
            label = things - 3 if task == "clevr_count" else CLEVR_STEPS[number % 12]
            found.add(split, file, label, pixels[..., :3])
            number += 1
        text = json.dumps({"info": {"split": name, "license": "CC"}, "scenes": scenes}, indent=1)
        files[f"CLEVR_v1.0/scenes/CLEVR_{name}_scenes.json"] = text.encode()
    pack(folder / "CLEVR_v1.0.zip", files)
    return found


def crc32c(data: bytes) -> int:
    """Bit by bit: slow, and nothing like the table of the reader it checks."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def tfrecord(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return length + masked(length) + payload + masked(payload)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field_of(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(image: bytes, filename: str, label: int) -> bytes:
    """A serialised tf.train.Example."""
    values = {
        "image": field_of(1, field_of(1, image)),
        "filename": field_of(1, field_of(1, filename.encode())),
        "label": field_of(3, field_of(1, varint(label))),
    }
    entries = [field_of(1, name.encode()) + field_of(2, value) for name, value in values.items()]
    return field_of(1, b"".join(field_of(1, entry) for entry in entries))


def dmlab(folder: Path) -> Original:
    found, files, number = Original(), {}, 0
    for split in ("train", "validation", "test"):
        for shard in range(2):
            body = b""
            for _ in range(3):
                data, pixels = stored(draw(number, (360, 480, 3)))
                name = f"video_{number}_5_{number * 7}.jpg"
                body += tfrecord(example(data, name, number % 6))
                found.add(split, name, number % 6, pixels)
                number += 1
            files[f"dmlab-{split}.tfrecord-{shard:05d}-of-00002"] = body
    tar(folder / "dmlab.tar.gz", files)
    return found


# (line of label_2, class): z = 8 and 20 belong to the nearer step; people and DontCare areas are no vehicles
KITTI_SCENES = (
    ([("Car", 3.0)], 0), ([("Van", 8.0), ("Car", 50.0)], 0), ([("Truck", 8.01)], 1), ([("Car", 20.0)], 1),
    ([("Car", 20.5)], 2), ([("Van", 90.0), ("Pedestrian", 2.0)], 2), ([("Cyclist", 5.0)], 3), ([], 3),
    ([("DontCare", -1000.0), ("Tram", 4.0)], 3),
)  # fmt: skip


def kitti(folder: Path) -> Original:
    found, images, labels = Original(), {}, {}
    videos = [f"2011_09_26_drive_{video:04d}_sync" for video in range(12)]
    lines = [f"2011_09_26 {video} {frame:010d}" for video in videos for frame in range(3)]
    order = np.random.default_rng(0).permutation(len(lines))
    for number, line in enumerate(order):
        data, pixels = stored(draw(number, (12, 40, 3)), "PNG")
        things, label = KITTI_SCENES[number % len(KITTI_SCENES)]
        images[f"training/image_2/{number:06d}.png"] = data
        images[f"testing/image_2/{number:06d}.png"] = b"not read"
        text = "".join(
            f"{kind} 0.00 0 -0.2 712.4 143.0 810.7 307.9 1.89 0.48 1.20 1.84 1.47 {z} 0.01\n" for kind, z in things
        )
        labels[f"training/label_2/{number:06d}.txt"] = text.encode()
        found.add(lines[line].split()[1], f"{number:06d}.png", label, pixels)
    pack(folder / "data_object_image_2.zip", images)
    pack(folder / "data_object_label_2.zip", labels)
    mapping = {
        "mapping/train_mapping.txt": "\n".join(lines),
        "mapping/train_rand.txt": ",".join(str(n + 1) for n in order),
    }
    pack(folder / "devkit_object.zip", {name: text.encode() for name, text in mapping.items()} | {"readme.txt": b""})
    return found


def dsprites(folder: Path, task: str, kind: str = "npz") -> Original:
    found, count = Original(), 120
    classes = np.zeros((count, 6), np.int64)
    classes[:, 3], classes[:, 4] = np.arange(count) % 40, np.arange(count) % 32
    images = np.stack([(draw(row, (64, 64)) > 128).astype(np.uint8) for row in range(count)])
    name = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64"
    if kind == "npz":
        np.savez_compressed(folder / f"{name}.npz", imgs=images, latents_classes=classes, latents_values=classes * 0.1)
    else:
        import h5py

        with h5py.File(folder / f"{name}.hdf5", "w") as file:
            file["imgs"], file["latents/classes"] = images, classes
    for row in range(count):
        label = row % 32 // 2 if task == "dsprites_location" else int(row % 40 / 2.5)
        found.add("train", row, label, images[row] * np.uint8(255))
    return found


def matrix(values: np.ndarray) -> bytes:
    """NORB's binary format: magic, dimensions, at least three sizes, data; little-endian."""
    magic = 0x1E3D4C55 if values.dtype == np.uint8 else 0x1E3D4C54
    sizes = [*values.shape, 1, 1][: max(3, values.ndim)]
    return struct.pack(f"<ii{len(sizes)}i", magic, values.ndim, *sizes) + values.tobytes()


def smallnorb(folder: Path, task: str) -> Original:
    found, number = Original(), 0
    for split, name in (
        ("train", "smallnorb-5x46789x9x18x6x2x96x96-training"),
        ("test", "smallnorb-5x01235x9x18x6x2x96x96-testing"),
    ):
        count = 18
        pairs = np.stack([np.stack([draw(number + i, (96, 96)), draw(9000 + i, (96, 96))]) for i in range(count)])
        info = np.array([[i % 10, i % 9, i % 18 * 2, i % 6] for i in range(count)], "<i4")
        (folder / f"{name}-dat.mat.gz").write_bytes(gzip.compress(matrix(pairs), 1))
        (folder / f"{name}-info.mat.gz").write_bytes(gzip.compress(matrix(info)))
        for i in range(count):
            found.add(split, i, i % 18 if task == "smallnorb_azimuth" else i % 9, pairs[i, 0])
        number += count
    return found


MAKERS: dict[str, Callable[[Path], Original]] = {
    "cifar100": cifar100, "svhn": svhn, "caltech101": caltech101, "dtd": dtd, "flowers102": flowers102, "pets": pets,
    "sun397": sun397, "camelyon": camelyon, "eurosat": eurosat, "resisc45": resisc45, "retinopathy": retinopathy,
    "clevr_count": lambda folder: clevr(folder, "clevr_count"),
    "clevr_distance": lambda folder: clevr(folder, "clevr_distance"), "dmlab": dmlab, "kitti_distance": kitti,
    "dsprites_location": lambda folder: dsprites(folder, "dsprites_location"),
    "dsprites_orientation": lambda folder: dsprites(folder, "dsprites_orientation"),
    "smallnorb_azimuth": lambda folder: smallnorb(folder, "smallnorb_azimuth"),
    "smallnorb_elevation": lambda folder: smallnorb(folder, "smallnorb_elevation"),
}  # fmt: skip


def files_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(relative name, bytes) of everything below a folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()


LARGE = ("resisc45", "retinopathy", "sun397", "dmlab", "pets")  # their true formats want large or many images


def tasks(names: Iterable[str], fast: tuple[str, ...] = ()) -> list[object]:
    """The tasks as parameters of a test: those of `fast` (else all but the LARGE ones) are fast, the others slow."""
    names = list(names)
    quick = fast or tuple(name for name in names if name not in LARGE)
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]
