"""Ship pretrained demo backbones: copy them from results/backbones to assets/backbones, with model cards.

python -m tgems.demo.installing
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from tgems.backbones.load import Backbone, load_backbone
from tgems.data.decoding import open_rgb
from tgems.data.webdataset import Sample
from tgems.demo.datasets import PROMPTS, samples
from tgems.errors import UserError
from tgems.evaluation.metrics import rank_of_label, retrieval_ranks
from tgems.failures import one_line_errors
from tgems.features.encode import class_embeddings, encode_images, encode_texts
from tgems.outputs import write_json, write_text
from tgems.provenance import digest_file, read_json

SHIPPED = ("open_clip_config.json", "open_clip_model.safetensors", "history.csv", "recipe.json")


def install(source: Path, target: Path, test_images: int = 2000) -> None:
    """Copy every backbone below `source` and write `metrics.json` and `README.md` beside its weights.

    Raises:
        UserError: There is no backbone, or a file of one is missing.
    """
    folders = sorted(p for p in Path(source).glob("*") if p.is_dir())
    if not folders:
        raise UserError(f"{source}: no backbone; run `make pretrain` first")
    for folder in folders:
        missing = [name for name in SHIPPED if not (folder / name).is_file()]
        if missing:
            raise UserError(f"{folder}: {missing[0]} is missing; run `make pretrain` again")
        metrics = full_depth_metrics(load_backbone({"pretrained": f"local-dir:{folder}"}), test_images)
        out = Path(target) / folder.name
        out.mkdir(parents=True, exist_ok=True)
        for name in SHIPPED:
            shutil.copyfile(folder / name, out / name)
        write_json(out / "metrics.json", metrics)
        write_text(out / "README.md", model_card(folder.name, out, test_images))


@torch.no_grad()
def full_depth_metrics(backbone: Backbone, test_images: int, seed: int = 0) -> dict[str, float]:
    """Evaluate the whole encoder on the test images of every embedded data set."""
    metrics = {}
    for dataset, prompts in PROMPTS.items():
        drawn = list(tqdm(samples(dataset, "test", test_images, seed), desc=dataset, total=test_images))
        images = _embed(backbone, drawn)
        if prompts is None:
            texts = encode_texts(backbone.model, backbone.tokenizer, [c for s in drawn for c in s.captions])
            owner = torch.tensor([i for i, s in enumerate(drawn) for _ in s.captions])
            directions = ("text_retrieval", "image_retrieval")
            for name, ranks in zip(directions, retrieval_ranks(images, texts, owner), strict=True):
                metrics[f"{dataset} {name}_recall@1"] = (ranks < 1).double().mean().item()
            continue
        classes = class_embeddings(backbone.model, backbone.tokenizer, prompts.classnames, prompts.templates)
        right = rank_of_label(images @ classes.T, torch.tensor([s.label for s in drawn])) < 1
        metrics[f"{dataset} acc1"] = right.double().mean().item()
        if dataset == "digits":
            difficulty = torch.tensor([s.metadata["difficulty"] for s in drawn])
            for third, name in enumerate(("clean", "middle", "hard")):
                inside = (difficulty * 3).long().clamp(max=2) == third
                metrics[f"{dataset} acc1, {name} third"] = right[inside].double().mean().item()
    return metrics


def _embed(backbone: Backbone, drawn: list[Sample], batch_size: int = 256) -> torch.Tensor:
    batches = (drawn[i : i + batch_size] for i in range(0, len(drawn), batch_size))
    pixels = (torch.stack([backbone.preprocess(open_rgb(s.image)) for s in batch]) for batch in batches)
    return torch.cat([encode_images(backbone.tower, images, backbone.blocks).embeddings for images in pixels])


def model_card(name: str, folder: Path, test_images: int) -> str:
    """Return a model card in Markdown.

    Args:
        name: Name of the backbone.
        folder: Folder of its files, which the card describes.
        test_images: Number of test images per data set that the metrics were measured on.
    """
    config = read_json(folder / "open_clip_config.json")["model_cfg"]
    recorded = read_json(folder / "recipe.json")
    history = pd.read_csv(folder / "history.csv")
    metrics = read_json(folder / "metrics.json")
    vision, recipe = config["vision_cfg"], recorded["recipe"]
    shown = history.iloc[:: max(1, len(history) // 12)]
    rows = {
        "architecture": f"open_clip CLIP, image encoder of {vision['layers']} blocks, width {vision['width']}, "
        f"patch {vision['patch_size']}, {vision['image_size']}x{vision['image_size']} pixels; SimpleTokenizer",
        "data": f"{recorded['pairs']:,} digit scenes of split `scenes/backbone` (with handwriting of no other split)",
        "data digest": f"`{recorded['data']}`",
        "recipe": "contrastive loss, equal captions are positives; AdamW, 5 % warm-up, cosine; "
        + ", ".join(f"{k} {v}" for k, v in sorted(recipe.items())),
        "wall time": f"{recorded['wall_time_s'] / 60:.0f} minutes on one CPU core",
        "commit": f"`{recorded['commit']}`",
        "versions": ", ".join(f"{k} {v}" for k, v in recorded["versions"].items()),
        "weights": f"float16, token embeddings that never occur are zero; SHA-256 "
        f"`{digest_file(folder / 'open_clip_model.safetensors')}`",
    }
    lines = [
        f"# {name}",
        "",
        "A small CLIP model for the embedded demo, which only knows digits, four colours and four arrangements.",
        f"Load it with open_clip: `create_model_and_transforms('local-dir:assets/backbones/{name}')`.",
        "",
        *_table(("", ""), rows.items()),
        "",
        f"Metrics at full depth on test images ({test_images:,} per data set; for `handwriting`, the test part of the "
        "source images):",
        "",
        *_table(("metric", "value"), ((k, f"{v:.3f}") for k, v in metrics.items())),
        "",
        "Loss over training (every 50 steps in `history.csv`):",
        "",
        *_table(
            ("step", "loss", "logit scale"), ((f"{s:.0f}", f"{v:.3f}", f"{t:.1f}") for s, v, t in shown.to_numpy())
        ),
    ]
    return "\n".join(lines) + "\n"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows)]


if __name__ == "__main__":
    with one_line_errors():
        install(Path("results/backbones"), Path("assets/backbones"))
