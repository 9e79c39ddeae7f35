"""One seed, named random streams: what one part of a run draws never shifts what another part sees."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

NAMES = ("init", "order", "augment", "search")


class Streams:
    """The generators of a run, all on the CPU, each seeded from a hash of (seed, name).

    init: new modules; order: the shuffles of the training set; augment: random crops and the like; search: choices of
    searchable methods. Dropout and drop-path cannot be handed a generator, so they draw from the global one, which
    `fit` seeds with `seed_of("dropout")` and puts back afterwards.
    """

    def __init__(self, seed: int) -> None:
        self.seed = int(seed)
        self.init, self.order, self.augment, self.search = (
            torch.Generator().manual_seed(self.seed_of(name)) for name in NAMES
        )

    def seed_of(self, name: str) -> int:
        """A 63-bit seed for any name, the same on every machine."""
        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def named(self) -> dict[str, torch.Generator]:
        """Name -> generator, for checkpoints."""
        return {name: getattr(self, name) for name in NAMES}


def global_states(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of torch's own generators, the CPU's and a CUDA device's, by name."""
    states = {"global": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_global_states(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Puts back what `global_states` gave; a state of a GPU is left where there is none."""
    torch.set_rng_state(states["global"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


@contextmanager
def forked(seed: int) -> Iterator[None]:
    """Run a block with the global generators (CPU and, if in use, CUDA) seeded by `seed`; put them back afterwards."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() and torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """cuDNN's deterministic algorithms within, in the precision of their input.

    The fastest backward of a convolution adds up in another order each time, and by default cuDNN rounds the factors of fp32
    products to ten bits (TF32), which torch's other products do not.
    """
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False):
        yield


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Run code that draws from the global generator (timm's and torch's initialisers) under a seed drawn from ours."""
    with forked(int(torch.randint(2**62, (1,), generator=generator))):
        yield
