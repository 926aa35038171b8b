"""A backbone's architecture from its source alone. Imports neither torch nor open_clip: it serves dry runs."""

import json
from importlib.util import find_spec
from pathlib import Path

from tgems.errors import UserError


def split_source(source: str) -> tuple[str, str]:
    """Split a source URL into scheme and rest.

    Raises:
        UserError: The scheme is neither `local-dir` nor `open_clip`.
    """
    scheme, _, rest = source.partition(":")
    if scheme not in ("local-dir", "open_clip") or not rest:
        raise UserError(
            f"backbone source {source!r}: expected 'local-dir:FOLDER' or 'open_clip:ARCHITECTURE/PRETRAINED_TAG'"
        )
    return scheme, rest


def split_open_clip(source: str) -> tuple[str, str | None]:
    """Architecture and pretrained tag of an `open_clip:` source; `random` as tag means random weights."""
    arch, _, tag = split_source(source)[1].partition("/")
    if not tag:
        raise UserError(f"backbone source {source!r}: expected a pretrained tag, as in 'open_clip:ViT-B-32/openai'")
    return arch, None if tag == "random" else tag


def model_config(source: str) -> dict:
    """Read open_clip's model configuration of a source.

    Raises:
        UserError: There is no such folder or architecture.
    """
    scheme, rest = split_source(source)
    if scheme == "local-dir":
        path = Path(rest) / "open_clip_config.json"
        if not path.is_file():
            raise UserError(f"backbone source {source!r}: {path} does not exist")
        return json.loads(path.read_text())["model_cfg"]
    arch, _ = split_open_clip(source)
    folder = Path(find_spec("open_clip").submodule_search_locations[0]) / "model_configs"
    path = folder / f"{arch.removesuffix('-quickgelu')}.json"
    exact = folder / f"{arch}.json"
    path = exact if exact.is_file() else path
    if not path.is_file():
        raise UserError(f"backbone source {source!r}: open_clip has no architecture {arch!r} (see {folder})")
    return json.loads(path.read_text())
