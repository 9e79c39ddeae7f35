"""A protocol's name says what was trained on, looked at and reported; other fields than its file's need another name."""

from collections.abc import Mapping
from functools import cache

from karst_bench.config.option_files import option_config, options
from karst_bench.errors import UserError


@cache
def _file(name: str) -> Mapping[str, object] | None:
    return option_config("protocol", name) if name in options("protocol") else None


def protocol_differs(protocol: Mapping[str, object]) -> str | None:
    """What a protocol of a known name has otherwise than its file; None where it agrees or its name is nobody's."""
    name = str(protocol.get("name"))
    said = _file(name)
    if said is None:
        return None
    odd = [key for key in sorted(said.keys() | protocol.keys()) if said.get(key) != protocol.get(key)]
    return f"protocol {name} says {odd[0]}={protocol.get(odd[0])}, its file {odd[0]}={said.get(odd[0])}" if odd else None


def check_protocol(protocol: Mapping[str, object]) -> None:
    """Raises: UserError where a named protocol's fields are changed."""
    if odd := protocol_differs(protocol):
        raise UserError(f"{odd}; what trains or looks otherwise needs another name: add protocol.name=mine")
