import json
import signal
import subprocess
import sys
import time

import pytest
import torch

from tgems.backbones.load import load_backbone
from tgems.config.run import PretrainingOptions
from tgems.demo.datasets import generate_split
from tgems.demo.pretraining import contrastive_loss, pretrain

CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "patch_size": 8, "head_width": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
RECIPE = PretrainingOptions(samples_seen=16 * 500, batch_size=16, learning_rate=1e-3)
PROGRAM = """
import json, sys, torch
from pathlib import Path
from tgems.demo.pretraining import pretrain
from tgems.config.run import PretrainingOptions
torch.set_num_threads(1)
split, config, recipe, checkpoint, out = sys.argv[1:]
pretrain(Path(split), json.loads(config), PretrainingOptions(**json.loads(recipe)), Path(checkpoint), Path(out))
"""


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "train"
    generate_split("scenes", "train", 64, 0, folder, 100)
    return folder


def test_equal_captions_are_positives():
    logits = torch.tensor([[9.0, 9.0, 0.0], [9.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    shared = contrastive_loss(logits, torch.tensor([4, 4, 7]))
    apart = contrastive_loss(logits, torch.tensor([4, 5, 7]))
    assert shared == pytest.approx(apart.item(), abs=1e-3) and 0.4 < shared < 0.5
    worse = contrastive_loss(torch.diag(torch.full((3,), 9.0)), torch.tensor([4, 4, 7]))
    assert worse > shared


def test_killed_run_resumes_to_the_same_weights(split, tmp_path):
    pretrain(split, CONFIG, RECIPE, tmp_path / "a.ckpt", tmp_path / "a")
    arguments = [
        str(split),
        json.dumps(CONFIG),
        RECIPE.model_dump_json(),
        str(tmp_path / "b.ckpt"),
        str(tmp_path / "b"),
    ]
    child = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "b.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert (tmp_path / "b.ckpt").exists() and not (tmp_path / "b").exists()
    pretrain(split, CONFIG, RECIPE, tmp_path / "b.ckpt", tmp_path / "b")
    weights = [(tmp_path / name / "open_clip_model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    model = load_backbone({"pretrained": f"local-dir:{tmp_path / 'a'}"}).model
    used = (model.token_embedding.weight != 0).any(1).sum()
    assert 10 < used < 100, "rows of tokens that never occur are zero"
