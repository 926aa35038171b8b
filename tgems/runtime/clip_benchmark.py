"""Hand over to clip_benchmark's command line with model type `tgems` known to it."""

import sys
from typing import NoReturn

from tgems.errors import UserError

# clip_benchmark's own name of an output file holds the model's, which is a path here.
DEFAULTS = {
    "--model_type": "tgems",
    "--pretrained": "default",
    "--output": "{dataset}_{pretrained}_{language}_{task}.json",
}
PICKLES = ("pkl", "pickle", "pyd")  # members that webdataset unpickles


def load_tgems(model_name: str, pretrained: str = "default", cache_dir: str | None = None, device: str = "cpu"):
    """Load a saved T-GEM the way clip_benchmark loads a model.

    Args:
        model_name: Folder, or id on the hub.
        pretrained: Data set whose thresholds are used; `default` for the first.
        cache_dir: Of the hub.
        device: Where to encode.

    Returns:
        Model, image transform, tokenizer.

    Raises:
        UserError: The policy looks at the texts, which clip_benchmark does not give beforehand.
    """
    from tgems.runtime.model import EarlyExitCLIP

    calibration = None if pretrained == "default" else pretrained
    model = EarlyExitCLIP.from_pretrained(model_name, device=device, cache_dir=cache_dir, calibration=calibration)
    if model.rule.needs_bank:
        raise UserError(
            f"{model_name}: policy {model.early_exit.policy!r} looks at the texts before an image is encoded, and "
            "clip_benchmark does not give them; export an image-guided policy, or use the workflow"
        )
    return model, model.preprocess, model.tokenizer


def refuse_pickles() -> None:
    """Make webdataset, with which clip_benchmark reads shards, refuse the members that it would unpickle.

    This changes webdataset's table of decoders in the current process. Worker processes inherit the change if they are
    forked, which is the default on Linux up to Python 3.13.
    """
    from webdataset import autodecode

    def refuse(_: bytes) -> NoReturn:
        raise UserError("a shard holds a pickle, which could run any code; use shards without pickles")

    autodecode.decoders.update(dict.fromkeys(PICKLES, refuse))


def _given(name: str, arguments: list[str]) -> bool:
    return any(word.partition("=")[0] == name for word in arguments)


def run(arguments: list[str]) -> None:
    """Run clip_benchmark with these arguments."""
    from clip_benchmark import models

    refuse_pickles()
    models.TYPE2FUNC["tgems"] = load_tgems
    if "tgems" not in models.MODEL_TYPES:
        models.MODEL_TYPES.append("tgems")
    if arguments[:1] == ["eval"]:
        chosen = [word for name, value in DEFAULTS.items() if not _given(name, arguments) for word in (name, value)]
        arguments = ["eval", *chosen, *arguments[1:]]
    sys.argv = ["clip_benchmark", *arguments]
    from clip_benchmark.cli import main
    from webdataset.autodecode import DecodingError

    try:
        main()
    except DecodingError as error:
        if isinstance(error.__context__, UserError):
            raise error.__context__ from None
        raise
