"""Build a backbone's tokenizer: open_clip's own, or one from transformers, which never runs code from a repository."""

import os
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tgems.architectures.open_clip_config import TextConfig
from tgems.data.network import network_errors, refuse_full_cache
from tgems.errors import UserError, first_line
from tgems.untrusted import is_hub_id, read_json_as

LOCAL = "local-dir:"
CONFIGS = ("tokenizer_config.json", "config.json")
CHOOSE_ANOTHER = "write 'tokenizer: local-dir:FOLDER' for a folder that you trust, or 'tokenizer: ORG/REPO'"


class WithoutCode(BaseModel):
    """A configuration file of transformers that does not ask for Python code; its other keys are not checked here."""

    model_config = ConfigDict(extra="ignore")
    auto_map: None = None


def build_tokenizer(text: TextConfig, chosen: str | None = None) -> Callable:
    """Build the tokenizer that a model's configuration describes.

    Args:
        text: The section `text_cfg` of the configuration.
        chosen: The user's own choice, which replaces `hf_tokenizer_name`: a repository id on the Hugging Face hub, or
            `local-dir:FOLDER`. Only the user can choose a folder; a configuration that comes with weights cannot.

    Returns:
        A callable that maps texts to token numbers, int64 `[m, context_length]`.

    Raises:
        UserError: The tokenizer cannot be downloaded or read, or it would run code that comes with it.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    given = {} if text.tokenizer_kwargs is None else text.tokenizer_kwargs.model_dump(exclude_none=True)
    name = chosen or text.hf_tokenizer_name
    if not name:
        if other := sorted(given.keys() - {"clean"}):
            raise UserError(f"tokenizer option {other[0]!r} needs a tokenizer of transformers; set 'tokenizer'")
        return SimpleTokenizer(context_length=text.context_length, **given)
    if name.startswith(LOCAL):
        source = _folder(name)
    else:
        source = name
        require_hub_id(name, f"or write 'tokenizer: {LOCAL}{name}' if you trust that folder")
    try:
        return HFTokenizer(
            source,
            context_length=text.context_length,
            tokenizer_mode=text.tokenizer_mode,
            trust_remote_code=False,
            **given,
        )
    except (*network_errors(), ImportError, LookupError, TypeError, AttributeError) as error:
        refuse_full_cache(error)
        raise UserError(
            f"tokenizer {name!r} cannot be loaded without running code of its own: {first_line(error)}; connect to the "
            f"internet, or {CHOOSE_ANOTHER}"
        ) from error


def require_hub_id(name: str, way_out: str) -> None:
    """Refuse a name that is not a repository id, or that transformers would read from the current folder instead.

    If there is a local folder with the name of the repository, transformers reads it instead.

    Raises:
        UserError: The name is not a repository id, or a file or folder of that name exists.
    """
    if not is_hub_id(name):
        raise UserError(f"{name!r} is not the id of a repository on the Hugging Face hub, OWNER/NAME")
    if os.path.exists(name):
        raise UserError(
            f"{name!r} is a repository on the Hugging Face hub, but {Path(name).absolute()} would be read instead; "
            f"run in another folder, {way_out}"
        )


def _folder(name: str) -> str:
    """Return the folder of a tokenizer that the user chose.

    Raises:
        UserError: The folder does not exist, or its tokenizer needs Python code from the folder.
    """
    folder = Path(name.removeprefix(LOCAL))
    if not os.path.isdir(folder):
        raise UserError(f"tokenizer {name!r}: folder {folder} does not exist, seen from {Path.cwd()}")
    for file in CONFIGS:
        if (folder / file).exists():
            read_json_as(WithoutCode, folder / file, "use a tokenizer that does not need code of its own")
    return str(folder)
