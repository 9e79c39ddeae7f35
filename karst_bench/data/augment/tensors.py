"""Plans of random changes carried out on a batch of tensors, on the device where it lies: what training on a GPU sees.

The same crops, flips, operations and rectangles as by Pillow, hence the same images up to rounding, with two
exceptions: rotations, shears and shifts are sampled with torch's cubic kernel (a = -0.75; Pillow's has a = -1), and the
noise of erased rectangles comes from a generator of the device. Nothing here waits for the device.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as colour

from karst_bench.data.augment.plan import AugmentPlan, Step

_Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]

# an output pixel (x, y) reads the input at the matrix times (x, y, 1); centre at 0, the edges at -1 and 1
WARPS: dict[str, Callable[[float], _Matrix]] = {
    "Rotate": lambda degrees: _rotation(-math.radians(degrees)),
    # timm's shears keep the upper (left) edge in its place, not the centre
    "ShearX": lambda factor: ((1, factor, factor), (0, 1, 0)),
    "ShearY": lambda factor: ((1, 0, 0), (factor, 1, factor)),
    "TranslateXRel": lambda part: ((1, 0, 2 * part), (0, 1, 0)),
    "TranslateYRel": lambda part: ((1, 0, 0), (0, 1, 2 * part)),
}
LEVELS: dict[str, Callable[..., Tensor]] = {
    "AutoContrast": colour.autocontrast,
    "Equalize": colour.equalize,
    "Invert": colour.invert,
    "Posterize": colour.posterize,
    "Solarize": lambda image, threshold: colour.solarize(image, threshold) if threshold < 256 else image,
    "SolarizeAdd": lambda image, added: torch.where(image < 128, image + added, image),
    "Color": colour.adjust_saturation,
    "Contrast": colour.adjust_contrast,
    "Brightness": colour.adjust_brightness,
    "Sharpness": colour.adjust_sharpness,
}


def augment_with_tensors(
    images: Tensor, plans: Sequence[AugmentPlan], *, size: int, mean: Tensor, std: Tensor, fill: Sequence[int]
) -> Tensor:
    """uint8 (b, 3, S, S) -> float32 (b, 3, size, size), levels 0..255 but in erased rectangles, which are mean + std * noise.

    mean, std: (3, 1, 1) in levels. fill: the colour, in levels, of what a rotation, shear or shift brings in.
    """
    crops = cropped(images, [plan.box for plan in plans], [plan.flip for plan in plans], size)
    colour_of_fill = sent(torch.tensor(fill, dtype=torch.uint8), images.device).view(3, 1, 1)
    changed_images = []
    for image, plan in zip(crops, plans, strict=True):
        for step in plan.steps:
            image = stepped(image, step, colour_of_fill)
        changed_images.append(image)
    pixels = torch.stack(changed_images).float()
    return _erased(pixels, plans, sent(mean, pixels.device), sent(std, pixels.device))


def cropped(images: Tensor, boxes: Sequence[tuple[float, ...]], flips: Sequence[bool], size: int) -> Tensor:
    """Boxes (left, top, right, bottom) of the images, resized and some flipped: uint8 (b, 3, S, S) -> (b, 3, size, size).

    Bicubic and antialiased, P' = D P A^T with one matrix of weights down and one across, each pass rounded as Pillow does.
    """
    left, top, right, bottom = sent(torch.tensor(boxes, dtype=torch.float32), images.device).unbind(1)
    across, down = (_weights(low, high, size, images.shape[-1]) for low, high in ((left, right), (top, bottom)))
    flipped = sent(torch.tensor(flips), images.device).view(-1, 1, 1)
    across = torch.where(flipped, across.flip(1), across)
    rows = _rounded(images.float() @ across.transpose(1, 2).unsqueeze(1))
    return _rounded(down.unsqueeze(1) @ rows).to(torch.uint8)


def stepped(image: Tensor, step: Step, fill: Tensor) -> Tensor:
    """One operation on one image: uint8 (3, H, H) -> uint8 (3, H, H). fill: uint8 (3, 1, 1)."""
    if step.name in WARPS:
        return _warped(image, WARPS[step.name](*step.arguments), fill)
    return LEVELS[step.name](image, *step.arguments)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a copy to a GPU goes through pinned memory, so that nothing waits for it."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _weights(low: Tensor, high: Tensor, size: int, side: int) -> Tensor:
    """(b, size, side): how much each of `side` pixels counts in each of `size` outputs over low..high, (b,) in pixels.

    Keys' cubic with a = -1/2 around each output's centre, widened where the image is made smaller; rows sum to 1.
    """
    scale = ((high - low) / size).view(-1, 1, 1)
    centre = low.view(-1, 1, 1) + (torch.arange(size, device=low.device).view(1, -1, 1) + 0.5) * scale
    distance = (torch.arange(side, device=low.device) + 0.5 - centre).abs() / scale.clamp(min=1)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))
    return weights / weights.sum(-1, keepdim=True)


def _rounded(levels: Tensor) -> Tensor:
    return (levels + 0.5).floor().clamp(0, 255)


def _rotation(angle: float) -> _Matrix:
    cos, sin = math.cos(angle), math.sin(angle)
    return (cos, sin, 0), (-sin, cos, 0)


def _warped(image: Tensor, matrix: _Matrix, fill: Tensor) -> Tensor:
    theta = sent(torch.tensor([matrix], dtype=torch.float32), image.device)
    grid = F.affine_grid(theta, [1, *image.shape], align_corners=False)
    found = F.grid_sample(image.float()[None], grid, mode="bicubic", padding_mode="border", align_corners=False)[0]
    inside = (grid[0].abs() <= 1).all(-1)
    return torch.where(inside, _rounded(found).to(torch.uint8), fill)


def _erased(pixels: Tensor, plans: Sequence[AugmentPlan], mean: Tensor, std: Tensor) -> Tensor:
    for image, plan in zip(pixels, plans, strict=True):
        if plan.erase is not None:
            top, left, height, width = plan.erase
            generator = torch.Generator(pixels.device).manual_seed(plan.seed)
            noise = torch.randn((3, height, width), generator=generator, device=pixels.device)
            image[:, top : top + height, left : left + width] = noise * std + mean
    return pixels
