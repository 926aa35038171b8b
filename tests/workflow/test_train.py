"""`tgems train` from an installed wheel, on images without captions, killed and called again."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import DEMO

from tgems.demo.datasets import generate_split

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 200 digit scenes as files, and nothing else."""
    from tgems.data.webdataset import read_shard

    folder = tmp_path_factory.mktemp("own")
    generate_split("scenes", "test", 200, 0, folder / "split", 200)
    (folder / "photos").mkdir()
    for sample in read_shard(folder / "split/0.tar"):
        (folder / f"photos/{sample.key}.png").write_bytes(sample.image)
    return folder / "photos"


def command(installed, *words):
    environment = os.environ | {"PYTHONPATH": str(installed[1]), "OMP_NUM_THREADS": "1"}
    return {"args": [sys.executable, "-m", "tgems.cli", *map(str, words)], "env": environment}


def test_a_killed_training_goes_on_and_gives_a_model_that_encodes(installed, photos, tmp_path):
    options = ["--images", photos, "--rate", "0.7", "--passes", "4", "--cores", "2", "--out", "mine"]
    train = command(installed, "train", *options, "--pretrained", DEMO["pretrained"]) | {"cwd": tmp_path}
    with subprocess.Popen(**train, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        for line in first.stdout:
            if "Train the heads" in line:
                break
        else:
            pytest.fail("the heads were not trained")
        first.send_signal(signal.SIGKILL)
    time.sleep(1)
    second = subprocess.run(**train, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    said = second.stdout.splitlines()
    assert not any("Encode" in line for line in said) and re.match(r"\[1/\d+\] \w", said[0])
    found = re.search(r"^mine: spends (0\.\d+) of the encoder on 40 held-out images", second.stdout, re.M)
    assert found and 0.3 < float(found[1]) < 1
    assert re.search(r"^full +1\.000 +1\.000", second.stdout, re.M)

    encode = command(installed, "encode", photos, "-m", "mine", "-o", "i.parquet")
    done = subprocess.run(**encode, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "200 images in i.parquet" in done.stdout, done.stderr
    info = subprocess.run(
        **command(installed, "info", "mine"), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert re.search(r"^trained on +photos", info.stdout, re.M)


def test_a_failed_job_is_one_line(installed, photos, tmp_path):
    train = command(
        installed, "train", "--images", photos, "--rate", "0.01", "--out", "x", "--pretrained", DEMO["pretrained"]
    )
    done = subprocess.run(**train, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1 and "0.01" in done.stderr
    assert not (tmp_path / "x").exists()
