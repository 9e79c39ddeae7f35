"""The five fine-grained sets of VPT (Jia et al. 2022): CUB, NABirds, Flowers, Dogs and Cars, from their own archives."""

from karst_bench.data.builders.fgvc.build import build_fgvc

__all__ = ["build_fgvc"]
