"""Run clip_benchmark's command line with the additional model type `tgems`."""

import sys
import tarfile
import traceback
from pathlib import Path
from typing import Any, NoReturn

from tgems.errors import UserError, first_line, reason

# clip_benchmark's default name of the output file contains that of the model, which is a path here.
DEFAULTS = {
    "--model_type": "tgems",
    "--pretrained": "default",
    "--output": "{dataset}_{pretrained}_{language}_{task}.json",
}
PICKLES = ("pkl", "pickle", "pyd")  # members that webdataset unpickles


def load_tgems(model_name: str, pretrained: str = "default", cache_dir: str | None = None, device: str = "cpu"):
    """Load a saved T-GEM the way clip_benchmark loads a model.

    clip_benchmark uses the embeddings of each batch before it reads the next one, so that images cannot wait for those
    of later batches. It therefore calls `encode_image`, in which batches become smaller as images leave.

    Args:
        model_name: Folder, or id on the hub.
        pretrained: Data set whose thresholds are used; `default` for the first.
        cache_dir: Cache folder of the Hugging Face hub.
        device: Device to run on.

    Returns:
        Model, image transform, tokenizer.

    Raises:
        UserError: The policy looks at the texts, which clip_benchmark does not give beforehand.
    """
    from tgems.runtime.model import EarlyExitCLIP

    calibration = None if pretrained == "default" else pretrained
    hub = {"cache_dir": cache_dir}
    model = EarlyExitCLIP.from_pretrained(model_name, device=device, calibration=calibration, hub_kwargs=hub)
    if model.early_exit.policy.needs_bank:
        raise UserError(
            f"{model_name}: policy {model.early_exit.policy.name!r} looks at the texts before an image is encoded, and "
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


def adapt_metrics() -> None:
    """Let clip_benchmark's accuracy run under numpy 2.4, where `float` no longer takes an array of one element.

    This changes the name `float` within `clip_benchmark.metrics.zeroshot_classification`, and nothing else.
    """
    from clip_benchmark.metrics import zeroshot_classification

    zeroshot_classification.float = _to_float  # type: ignore[attr-defined]


def _to_float(value: Any) -> float:
    return value.item() if hasattr(value, "item") else float(value)


def _given(name: str, arguments: list[str]) -> bool:
    return any(word.partition("=")[0] == name for word in arguments)


def run(arguments: list[str]) -> None:
    """Run clip_benchmark with these arguments.

    Raises:
        UserError: clip_benchmark refuses an argument, or a file that an argument names cannot be used.
    """
    from clip_benchmark import models

    if piped := [word for word in arguments if "pipe:" in word]:
        raise UserError(f"clip_benchmark: {piped[0]}: webdataset would run this as a command; name a folder or a URL")
    refuse_pickles()
    adapt_metrics()
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
        raise _undecodable(error) from error
    except tarfile.TarError as error:
        said = str(error).strip().splitlines()[-1]  # an error of a worker process holds a whole traceback
        raise UserError(f"clip_benchmark: a shard is damaged ({said}); write or download it again") from error
    except BrokenPipeError:
        raise
    except OSError as error:
        place = error.filename or "a file"
        raise UserError(f"clip_benchmark: {place}: {reason(error)}; check the names that you gave") from error
    except ValueError as error:
        raised_by = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if not raised_by.is_relative_to(Path(models.__file__).parent.parent):
            raise
        raise UserError(f"clip_benchmark: {first_line(error)} see `tgems clip-benchmark eval --help`") from error


def _undecodable(error: Any) -> UserError:
    """Return the message for webdataset's DecodingError; one from a worker process holds only the exception's name."""
    if isinstance(error.__context__, UserError):
        return error.__context__
    if error.key is None:
        return UserError("clip_benchmark: a sample cannot be decoded; `--num_workers 0` names it")
    why = f" ({reason(error.__cause__)})" if error.__cause__ else ""
    return UserError(
        f"{error.url}: {error.k.lstrip('.')} of sample {error.key!r} cannot be decoded{why}; repair the shard"
    )
