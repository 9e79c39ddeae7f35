"""A backbone as a method sees it: addressable sites by role and the numbers that closed forms need; no timm."""

from dataclasses import dataclass, field

from karst_bench.errors import MisfitError, UserError

ROLES = (
    "embed", "embed_norm", "qkv", "q", "k", "v", "proj", "fc1", "fc2", "norm1", "norm2",
    "reduction", "reduction_norm", "final_norm",
)  # fmt: skip
STANDARD = "such as vit_base_patch16_224"  # a model that every method can be attached to
EVERY_BLOCK = ("qkv", "q", "k", "v", "proj", "fc1", "fc2", "norm1", "norm2")  # roles that a block has, or its class is refused


@dataclass(frozen=True)
class Site:
    """One addressable module, or a chunk of its output rows (q, k, v of the fused projection).

    `block` counts through the whole network (None outside blocks); `rows` is the half-open range of output rows. biases:
    the names of the model's parameters that are its bias, in whole or in part.
    """

    role: str
    path: str
    kind: str  # linear | conv | norm
    d_in: int
    d_out: int
    bias: bool
    stage: int = 0
    block: int | None = None
    heads: int | None = None
    rows: tuple[int, int] | None = None
    biases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """How messages name it: the path, with the role where it is a chunk."""
        return f"{self.path}[{self.role}]" if self.rows else self.path

    def head_rows(self) -> list[tuple[int, int]]:
        """The output rows of each attention head, for q, k and v sites; errors elsewhere."""
        if self.rows is None or self.heads is None:
            raise ValueError(f"{self.name}: only q, k and v have head row groups, this is {self.role}")
        start, stop = self.rows
        width = (stop - start) // self.heads
        return [(start + h * width, start + (h + 1) * width) for h in range(self.heads)]


@dataclass(frozen=True)
class ModelSpec:
    """The backbone as a method sees it: no timm names beyond the sites' paths."""

    family: str
    depth: int
    widths: tuple[int, ...]  # of each block
    heads: tuple[int, ...]
    stages: tuple[int, ...]  # stage of each block
    patch: int
    grid: tuple[int, int]
    prefix_tokens: int  # class and register tokens, 0 on Swin
    embed_dim: int
    backbone_params: int  # without the classifier
    sites: tuple[Site, ...] = field(repr=False)
    names: tuple[tuple[str, int], ...] = field(repr=False)  # (the backbone's own parameter name, its size)
    model: str = "model"  # timm's class, for messages
    class_token: bool = False  # the first of the prefix tokens is one
    blocks: tuple[str, ...] = field(default=(), repr=False)  # the path of each block
    fixed_tokens: str = ""  # why tokens cannot be added, "" where they can

    def having(self, *roles: str) -> list[Site]:
        """The sites of these roles in network order.

        Raises: UserError for a role that does not exist, or that a block of this model lacks: nothing is left out unsaid.
        """
        for role in roles:
            if role not in ROLES:
                raise UserError(f"site role {role!r} is unknown; the roles are {', '.join(ROLES)}")
            if role in EVERY_BLOCK and len({site.block for site in self.sites if site.role == role}) < self.depth:
                raise MisfitError(
                    f"the method adapts {role} in every block, but the blocks of this model have no {role} of their own; use a "
                    f"model that has it, {STANDARD}, other sites where the method lets you choose, or another method"
                )
        return [site for site in self.sites if site.role in roles]
