"""The tokenizer of a backbone: open_clip's own, or one of transformers' that runs no code of its repository."""

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tgems.backbones.open_clip_config import TextConfig
from tgems.errors import UserError, first_line
from tgems.untrusted import read_json_as

LOCAL = "local-dir:"
CONFIGS = ("tokenizer_config.json", "config.json")
SAY_SO = "write 'tokenizer: local-dir:FOLDER' for a folder that you trust, or 'tokenizer: ORG/REPO'"


class WithoutCode(BaseModel):
    """A JSON file of transformers' that names no Python class of its repository; other keys are transformers' own."""

    model_config = ConfigDict(extra="ignore")
    auto_map: None = None


def build_tokenizer(text: TextConfig, chosen: str | None = None) -> Callable:
    """Build the tokenizer that a configuration describes: texts -> int64 `[m, context_length]`.

    Args:
        text: Of the model's configuration.
        chosen: What the user chose in place of `hf_tokenizer_name`: a name on the Hugging Face hub, or
            `local-dir:FOLDER`. No configuration that comes with weights can name a folder.

    Raises:
        UserError: The tokenizer cannot be fetched or read, or would run code that comes with it.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    given = {} if text.tokenizer_kwargs is None else text.tokenizer_kwargs.model_dump(exclude_none=True)
    name = chosen or text.hf_tokenizer_name
    if not name:
        if other := sorted(given.keys() - {"clean"}):
            raise UserError(f"tokenizer option {other[0]!r} is for tokenizers of transformers; name one by 'tokenizer'")
        return SimpleTokenizer(context_length=text.context_length, **given)
    source = _folder(name) if name.startswith(LOCAL) else name
    require_hub_id(name, f"or write 'tokenizer: {LOCAL}{name}' if you trust that folder")
    try:
        return HFTokenizer(
            source,
            context_length=text.context_length,
            tokenizer_mode=text.tokenizer_mode,
            trust_remote_code=False,
            **given,
        )
    except (RuntimeError, OSError, ValueError, ImportError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"tokenizer {name!r} cannot be loaded without running code of its own: {first_line(error)}; connect to the "
            f"internet, or {SAY_SO}"
        ) from error


def require_hub_id(name: str, way_out: str) -> None:
    """Refuse a name on the hub that transformers would take for a folder, since one of that name lies here.

    Raises:
        UserError: It does.
    """
    if not name.startswith(LOCAL) and Path(name).exists():
        raise UserError(
            f"{name!r} is a repository of the Hugging Face hub, but {Path(name).absolute()} would be read in its "
            f"place; run in another folder, {way_out}"
        )


def _folder(name: str) -> str:
    """Folder of a tokenizer that the user chose.

    Raises:
        UserError: It does not exist, or needs code that lies in it.
    """
    folder = Path(name.removeprefix(LOCAL))
    if not folder.is_dir():
        raise UserError(f"tokenizer {name!r}: folder {folder} does not exist, seen from {Path.cwd()}")
    for file in CONFIGS:
        if (folder / file).exists():
            read_json_as(WithoutCode, folder / file, "use a tokenizer that needs no code of its own")
    return str(folder)
