"""The record beside the tables of what they were made from, and the check that they belong to a configuration."""

import reprlib
from collections.abc import Sequence
from pathlib import Path

from tgems.errors import UserError
from tgems.provenance import read_json, write_json


def require_results_of(config: dict, provenance: Path) -> None:
    """Refuse tables that were made with another configuration.

    Args:
        config: The recorded part of the configuration in use (`tgems.run_config.recorded_config`).
        provenance: `tables/provenance.json` beside the tables; tables without one are not whole.

    Raises:
        UserError: There are no tables, or they are of another configuration; names the first key that differs.
    """
    if not provenance.is_file():
        raise UserError(f"{provenance.parent}: holds no whole tables; run snakemake with this configuration first")
    found = read_json(provenance)["config"]
    for key in [*config, *(key for key in found if key not in config)]:
        if config.get(key) != found.get(key):
            raise UserError(
                f"{provenance.parent}: made with another configuration, whose {key} is {reprlib.repr(found.get(key))} "
                f"instead of {reprlib.repr(config.get(key))}; use that configuration, or run snakemake with this one"
            )


def write_provenance(evaluations: Sequence[str], config: dict, out: Path) -> None:
    """Write what every number of the tables comes from: the configuration, and per evaluation digests and versions."""
    parts = {"/".join(Path(path).parts[-4:-1]): read_json(Path(path)) for path in evaluations}
    write_json(out, {"config": config, "evaluations": parts})
