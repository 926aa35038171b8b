"""Name the extra of the package, such as `tgems[workflow]`, that brings a module which is not installed."""

EXTRAS = {
    "workflow": (
        *("altair", "clip_benchmark", "fvcore", "matplotlib", "pandas", "scipy", "seaborn", "sklearn", "snakemake"),
        *("transformers", "vl_convert", "webdataset"),
    ),
}
"""Modules by the extra of pyproject.toml that brings them."""


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return a line for the user if an extra brings the missing module, or None if that is a bug."""
    module = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            return f"this needs the Python package {module!r}, which is not installed; pip install 'tgems[{extra}]'"
    return None
