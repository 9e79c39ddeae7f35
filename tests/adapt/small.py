"""Tiny backbones and images for them."""

import torch

VIT = {
    "name": "tiny", "timm_name": "vit_tiny_patch16_224",
    "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3},
}  # fmt: skip
SWIN = {
    "name": "tiny_swin", "timm_name": "swin_tiny_patch4_window7_224",
    "model_args": {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2]},
}  # fmt: skip


class Images:
    """Twelve images in batches of five, as the data layer would hand them out; counts the passes."""

    def __init__(self):
        self.x, self.y, self.passes = torch.randn(12, 3, 32, 32), torch.arange(12), 0

    def __len__(self):
        return 3

    def epoch(self, generator, skip=0):
        self.passes += 1
        order = torch.arange(12) if generator is None else torch.randperm(12, generator=generator)
        if generator is not None:
            torch.randint(2**62, (), generator=generator)
        for start in range(5 * skip, 12, 5):
            yield self.x[order[start : start + 5]], self.y[order[start : start + 5]]
