"""Find the files of a backbone and check them, before a model or a tokenizer is built from them.

This module reads and downloads files. open_clip is only ever given configurations that it has validated.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tgems.architectures.catalog import check_merging, check_same, check_supported, read_architecture
from tgems.architectures.open_clip_config import CONFIG_NAME, OpenClipConfig, PreprocessConfig
from tgems.backbones.checkpoint import OPENAI_KEYS, is_openais, read_state
from tgems.backbones.hub_files import hub_file
from tgems.backbones.references import (
    DOWNLOAD_AGAIN,
    checkpoint_in,
    folder_config,
    local_folder,
    model_config,
    token_merging_of,
    weights_form,
)
from tgems.data.network import network_errors, refusal, refuse_full_cache
from tgems.errors import UserError, first_line
from tgems.provenance import digest_json, digest_tensors
from tgems.untrusted import file_inside, is_hub_id, read_json_as

logger = logging.getLogger(__name__)
CONNECT = (
    "connect to the internet and run again, or use a local copy by 'pretrained: FILE' or 'pretrained: local-dir:FOLDER'"
)
RESIZING = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True)
class Source:
    """The files of a backbone that is not built yet.

    Attributes:
        entry: The backbone's entry in the configuration of the run.
        config: Validated architecture and preprocessing.
        checkpoint: File of the weights; None for random weights.
        weights_digest: Digest of the checkpoint by `encoder_digest`; None for random weights.
    """

    entry: dict
    config: OpenClipConfig
    checkpoint: Path | None
    weights_digest: str | None

    @property
    def name(self) -> str:
        """The name to use in messages."""
        return self.entry.get("model") or self.entry["pretrained"]


def find_source(backbone: dict) -> Source:
    """Download and check the files that an entry of the configuration names (docs/adding-a-backbone.md).

    Raises:
        UserError: The architecture or the weights are unknown, a file cannot be downloaded or is damaged, or the
            weights were trained with another activation than the architecture has.
    """
    config = read_config(backbone)
    path = _checkpoint(backbone)
    if path is None:
        return Source(backbone, config, None, None)
    state = read_state(path)
    if is_openais(state):
        state = {k: v for k, v in state.items() if k not in OPENAI_KEYS}
    return Source(backbone, config, path, encoder_digest(state, backbone))


def encoder_digest(state: Mapping[str, Tensor], backbone: dict) -> str:
    """Return the digest by which encoders are told apart: SHA-256 of the tensors as float32.

    With token merging, it is the digest of that digest and the number of merged tokens, since the same weights then
    give other features.
    """
    weights, merged = digest_tensors(state.items()), token_merging_of(backbone)
    return digest_json({"weights": weights, "token_merging": merged}) if merged else weights


def read_config(backbone: dict) -> OpenClipConfig:
    """Read the architecture and the preprocessing of an entry. This may download a configuration, but never weights.

    Raises:
        UserError: See `find_source`.
    """
    pretrained, name = backbone["pretrained"], backbone.get("model")
    form = weights_form(pretrained)
    check_supported(model_config(backbone), name or pretrained)
    check_merging(model_config(backbone), token_merging_of(backbone), name or pretrained)
    if (folder := local_folder(pretrained)) is not None:
        return folder_config(folder)
    if name is None:
        raise UserError(f"backbone with pretrained {pretrained!r} has no model; set 'model' to an architecture")
    if form == "hf-hub":
        path = _from_hub(pretrained, name, CONFIG_NAME)
        config = read_json_as(OpenClipConfig, path, f"{pretrained} cannot be used")
        check_same(name, config.model_cfg, pretrained)
        return config
    preprocess = _preprocessing_of(_check_tag(name, pretrained)) if form == "tag" else _common_preprocessing(name)
    return OpenClipConfig(model_cfg=read_architecture(name), preprocess_cfg=preprocess)


def _checkpoint(backbone: dict) -> Path | None:
    """Return the file of the weights, and download it where necessary."""
    from open_clip import download_pretrained, get_pretrained_cfg

    pretrained, name = backbone["pretrained"], backbone.get("model") or ""
    form = weights_form(pretrained)
    if form == "random":
        return None
    if form == "file":
        return Path(pretrained)
    if (folder := local_folder(pretrained)) is not None:
        return file_inside(folder, checkpoint_in(folder).name, DOWNLOAD_AGAIN)
    if form == "hf-hub":
        return _from_hub(pretrained, name)
    published = get_pretrained_cfg(name, pretrained)
    if place := published.get("hf_hub"):  # ORG/REPO/ or ORG/REPO/FILE
        repository, _, filename = place.rpartition("/")
        return _fetched(pretrained, name, lambda: hub_file(repository, filename or None))
    return _fetched(pretrained, name, lambda: Path(download_pretrained(published)))


def _from_hub(pretrained: str, name: str | None, filename: str | None = None) -> Path:
    """Download a file of a repository. Without a filename this is its weights, as safetensors where they exist."""
    repository = pretrained.partition(":")[2]
    if not is_hub_id(repository):
        raise UserError(f"backbone weights {pretrained!r}: {repository!r} is not a repository; write 'hf-hub:ORG/REPO'")
    return _fetched(pretrained, name, lambda: hub_file(repository, filename))


def _fetched(pretrained: str, name: str | None, download: Callable[[], Path]) -> Path:
    try:
        return download()
    except UserError as error:
        raise UserError(f"backbone weights {pretrained!r} of {name!r}: {error}") from None
    except (*network_errors(), ImportError) as error:
        refuse_full_cache(error)
        why = refusal(error) or f"{first_line(error)}; {CONNECT}"
        raise UserError(f"backbone weights {pretrained!r} of {name!r} cannot be loaded: {why}") from error


def _check_tag(name: str, tag: str) -> dict:
    """Return what open_clip knows about a tag.

    Weights that were trained with QuickGELU lose accuracy without a warning in a model with GELU, and vice versa.

    Raises:
        UserError: open_clip does not know the tag, or the weights were trained with another activation.
    """
    import open_clip

    published = open_clip.get_pretrained_cfg(name, tag)
    if not published:
        tags = open_clip.list_pretrained_tags_by_model(name)
        hint = f"known: {', '.join(tags)}" if tags else "it knows none for this architecture"
        raise UserError(f"backbone weights {tag!r}: open_clip knows no weights {tag!r} for {name!r}; {hint}")
    trained_with = bool(published.get("quick_gelu", False))
    if trained_with != read_architecture(name).quick_gelu:
        wanted = f"{name}-quickgelu" if trained_with else name.removesuffix("-quickgelu")
        raise UserError(
            f"backbone weights {tag!r} of {name!r} were trained with {'QuickGELU' if trained_with else 'GELU'}; "
            f"write 'model: {wanted}'"
        )
    return published


def with_activation(name: str, pretrained: str) -> str:
    """Return the architecture with the activation function that the weights of a tag were trained with.

    open_clip has two versions of such architectures, for example `ViT-B-32` and `ViT-B-32-quickgelu`. All other
    architectures are returned unchanged.
    """
    if weights_form(pretrained) != "tag":
        return name
    import open_clip

    published, quick = open_clip.get_pretrained_cfg(name, pretrained) or {}, f"{name}-quickgelu"
    return quick if published.get("quick_gelu") and quick in open_clip.list_models() else name


def _preprocessing_of(published: dict) -> PreprocessConfig:
    """Return the preprocessing of weights that open_clip lists."""
    given: dict[str, Any] = {key: published[key] for key in RESIZING if published.get(key) is not None}
    return PreprocessConfig.model_validate({k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


def _common_preprocessing(name: str) -> PreprocessConfig:
    """Return the preprocessing that all published weights of an architecture share; if they differ, log that."""
    import open_clip

    published = [open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)]
    distinct = [_preprocessing_of(cfg) for cfg in published]
    if distinct and all(one == distinct[0] for one in distinct):
        return distinct[0]
    logger.info("%s: published weights do not agree on one preprocessing; open_clip's default is used", name)
    return PreprocessConfig()
