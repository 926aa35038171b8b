"""Execute the tutorial docs/your-own-photos.md: on generated photos, with random weights from a hub on this machine."""

import csv
import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from tgems.demo.hub_copies import write_weights
from tgems.demo.hub_rehearsal import environment
from tgems.demo.hub_server import serve
from tgems.demo.photographs import samples

pytestmark = pytest.mark.workflow
PAGE = (ROOT / "docs/your-own-photos.md").read_text()
PHOTOS, CAPTIONS = 80, 2
"""Number of photos, which are fewer than those of the page, and of captions per photo."""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture
def folder(tmp_path):
    """The folder of somebody who has photos with captions, as the page describes it."""
    (tmp_path / "photos").mkdir()
    with open(tmp_path / "photos/captions.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "caption"))
        for sample in samples("retrieval", "train", PHOTOS, 0):
            (tmp_path / f"photos/{sample.key}.jpg").write_bytes(sample.image)
            table.writerows((f"{sample.key}.jpg", caption) for caption in sample.captions[:CAPTIONS])
    (tmp_path / "queries.txt").write_text("a red four\na green seven\na blue nine\n")
    return tmp_path


def test_every_command_of_the_tutorial_works(folder, installed):
    write_weights("ViT-B-32-quickgelu", "openai", folder / "remote")
    with serve({"timm/vit_base_patch32_clip_224.openai": folder / "remote"}) as hub:
        env = environment(hub, folder) | {"PYTHONPATH": str(installed[1])}
        commands = [line for block in blocks("sh") for line in block.strip().splitlines()]
        run = [shlex.split(line)[1:] for line in commands if line.startswith("tgems ")]
        assert [words[0] for words in run] == ["train", "info", "calibrate", "calibrate", "encode", "search", "encode"]
        assert all(line.startswith(("tgems ", "pip install ")) for line in commands)
        for words in run:
            command = [sys.executable, "-m", "tgems.cli", *words]
            done = subprocess.run(
                command,
                cwd=folder,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
                capture_output=True,
                text=True,
                check=False,
            )
            # A rate is held on long streams only, and these are few photos.
            allowed = (0, 3) if "--hold-rate" in words else (0,)
            assert done.returncode in allowed, f"{words}: {done.stdout}\n{done.stderr}"
            print(shlex.join(words), done.stdout, sep="\n")
        (python,) = blocks("python")
        done = subprocess.run(
            [sys.executable, "-c", python], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 and "tensor" in done.stdout, done.stderr
