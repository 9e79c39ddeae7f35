"""`karst-bench run --help`. Hydra's own help copies all it knows for every folder of options, which takes a second."""

import textwrap
from collections.abc import Sequence
from string import Template

from omegaconf import OmegaConf

from karst_bench.config.compose import composed
from karst_bench.config.messages import GROUPS, friendly
from karst_bench.config.option_files import config_dir, options
from karst_bench.yaml_text import load_yaml


def help_text(overrides: Sequence[str]) -> str:
    """Every group with its options, and the configuration that the overrides compose. Raises: UserError as composing does."""
    with friendly(overrides, composed, options):
        config = OmegaConf.to_yaml(composed(overrides), sort_keys=False)
    lines = [f"{group}: {', '.join(options(group))}" for group in GROUPS if group != "also"]
    lines.insert(1, "also: any method that does not bring its own optimiser")
    groups = "\n".join(textwrap.fill(line, 120, subsequent_indent="    ", break_on_hyphens=False) for line in lines)
    template = str(load_yaml(config_dir() / "config.yaml").hydra.help.template)
    return Template(template).safe_substitute(APP_CONFIG_GROUPS=f"{groups}\n", CONFIG=config).rstrip()
