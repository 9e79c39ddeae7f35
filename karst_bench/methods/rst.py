"""RST: channel-wise re-scaling and translation of a layer's output, on top of any method [KARST, arXiv 2502.06779]."""

from dataclasses import dataclass

import torch
from torch import nn

from karst_bench.errors import UserError
from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.model_spec import Site

PLACES = {"qkv": ("qkv", "after"), "pre_proj": ("proj", "before"), "proj": ("proj", "after"),
          "fc1": ("fc1", "after"), "fc2": ("fc2", "after")}  # fmt: skip
GRANULARITIES = ("channel", "scalar", "channel_scale")


@dataclass(kw_only=True)
class RST(Method):
    """y = (1 + s1) * z + s2,  s1 = s2 = 0 at the start                            [KARST, Eq. 4]

    Shapes: s1, s2 (C,) by `channel`; (1,) each by `scalar` (the published code); s1 (C,) and s2 (1,) by `channel_scale`.
    Sites: after qkv, proj, fc1 or fc2, or `pre_proj`, on the input of proj.
    """

    sites: list[str]
    granularity: str

    def __post_init__(self) -> None:
        unknown = [place for place in self.sites if place not in PLACES]
        if unknown:
            raise UserError(f"extra.sites={unknown} is unknown for RST; use some of {', '.join(PLACES)}")
        if self.granularity not in GRANULARITIES:
            raise UserError(f"extra.granularity={self.granularity!r} is unknown; use {', '.join(GRANULARITIES)}")

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        for place in self.sites:
            role, where = PLACES[place]
            for site in model.sites(role):
                scale, shift = (nn.Parameter(torch.zeros(n)) for n in self._sizes(place, site))
                model.affine(site, scale, shift, where=where, centre=1.0)

    def expected_params(self, spec: ModelSpec) -> int:
        return sum(sum(self._sizes(place, site)) for place in self.sites for site in spec.having(PLACES[place][0]))

    def _sizes(self, place: str, site: Site) -> tuple[int, int]:
        width = site.d_in if place == "pre_proj" else site.d_out
        return {"channel": (width, width), "scalar": (1, 1), "channel_scale": (width, 1)}[self.granularity]
