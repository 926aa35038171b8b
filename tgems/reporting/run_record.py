"""Record what the tables of a run were made from, and check that tables belong to a configuration."""

from collections.abc import Sequence
from pathlib import Path

from tgems.errors import UserError
from tgems.outputs import write_json
from tgems.provenance import read_provenance


def require_results_of(config: dict, provenance: Path) -> None:
    """Refuse tables that were made with another configuration.

    Args:
        config: The recorded part of the configuration in use (`tgems.workflow_config.recorded_config`).
        provenance: `provenance.json` beside the tables. It is written last, so that tables without it are incomplete.

    Raises:
        UserError: There are no complete tables, or they were made with another configuration. The message names the
            first key that differs.
    """
    if not provenance.is_file():
        raise UserError(f"{provenance.parent}: has no complete tables; run snakemake with this configuration first")
    found, wanted = flatten(read_provenance(provenance)["config"]), flatten(config)
    for key in [*wanted, *(key for key in found if key not in wanted)]:
        if wanted.get(key) != found.get(key):
            raise UserError(
                f"{provenance.parent}: made with another configuration, whose {key} is {found.get(key)} instead of "
                f"{wanted.get(key)}; use that configuration, or run snakemake with this one"
            )


def flatten(value: object, prefix: str = "") -> dict[str, str]:
    """Return the values of nested mappings as text, by keys such as `variants.default.heads.passes`."""
    if not isinstance(value, dict):
        return {prefix: str(value)}
    parts = [flatten(part, f"{prefix}.{key}" if prefix else key) for key, part in value.items()]
    return {key: text for part in parts for key, text in part.items()}


def write_provenance(evaluations: Sequence[str], config: dict, out: Path) -> None:
    """Write what the tables were made from: the configuration, and the digests and versions of every evaluation.

    Args:
        evaluations: `provenance.json` of every evaluation.
        config: The recorded part of the configuration.
        out: JSON file to write.
    """
    from tgems.evaluation.record import read_evaluation_record  # imports torch, which dry runs avoid

    parts = {"/".join(Path(path).parts[-4:-1]): read_evaluation_record(Path(path)).model_dump() for path in evaluations}
    write_json(out, {"config": config, "evaluations": parts})
