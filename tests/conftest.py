"""Shared fixtures: the shipped demo backbone, a small random one, and a small cached split of each task."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from tgems.config.run import RunConfig

ROOT = Path(__file__).parent.parent
LONGEST_FIRST = ("tutorial", "slurm", "smoke", "code", "train", "keys", "hub", "laptop")
"""Files of tests/workflow that take longest."""
DEMO = {"pretrained": f"local-dir:{ROOT}/assets/backbones/demo-vit-8"}


def variant(heads: int = 8, gates: int = 4, **changes) -> dict:
    """The keys of a variant that `module_costs` reads."""
    hidden = {"heads": {"hidden": heads}, "image_gates": {"hidden": gates}, "bank_gates": {"hidden": gates}}
    own = {"exits": "all", "summary": {"grid": 2}, "training": {"scheme": "staged"}}
    return own | hidden | changes


def options(stage: str, **changes):
    """A section of the configuration with its defaults, except for some keys."""
    return RunConfig.model_fields[stage].annotation(**changes)


def pytest_addoption(parser):
    """Add an option to use a finished run of the smoke configuration instead of running it."""
    parser.addoption("--smoke-run", type=Path, help="project of a finished run of `kill.py --reference`")


def pytest_collection_modifyitems(items):
    """Put the files that take longest first, so that processes of pytest-xdist end at about the same time."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST_FIRST)}

    def place(item):
        workflow = item.get_closest_marker("workflow") is not None
        return not workflow, places.get(item.path.name, len(places)) if workflow else 0

    items.sort(key=place)


@pytest.fixture(scope="session")
def made_once(request, tmp_path_factory):
    """Function of a name and a function that fills a new folder; returns the folder.

    All processes of pytest-xdist share it: the first to ask fills it, and the others wait.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if hasattr(request.config, "workerinput") else own

    def make(name, fill):
        folder, filled = shared / f"shared-{name}", shared / f"shared-{name}.filled"
        with FileLock(shared / f"shared-{name}.lock"):
            if not filled.exists():
                shutil.rmtree(folder, ignore_errors=True)
                fill(folder)
                filled.touch()
        return folder

    return make


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def demo_backbone():
    from tgems.backbones.load import load_backbone

    return load_backbone(DEMO)


@pytest.fixture(scope="session")
def biased_backbone(tmp_path_factory):
    """The demo backbone with a logit bias of -10, as SigLIP has one."""
    from safetensors.torch import load_file, save_file

    from tgems.backbones.load import load_backbone

    folder = shutil.copytree(ROOT / "assets/backbones/demo-vit-8", tmp_path_factory.mktemp("biased") / "backbone")
    config, weights = folder / "open_clip_config.json", folder / "open_clip_model.safetensors"
    described = json.loads(config.read_text())
    described["model_cfg"]["init_logit_bias"] = 0.0
    config.write_text(json.dumps(described))
    save_file(load_file(weights) | {"logit_bias": torch.tensor(-10.0)}, weights)
    return load_backbone({"pretrained": f"local-dir:{folder}"})


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory):
    """Folder with small splits of `scenes` and `digits` in clip_benchmark's layout."""
    from tgems.data.webdataset import write_prompts
    from tgems.demo.datasets import PROMPTS, generate_split

    root = tmp_path_factory.mktemp("data")
    for dataset in ("scenes", "digits"):
        write_prompts(root / dataset, PROMPTS[dataset])
        generate_split(dataset, "test", 70, 0, root / dataset / "test", 40)
    return root


@pytest.fixture(scope="session")
def demo_features(demo_backbone, demo_data, tmp_path_factory):
    """Cached features of both splits, by data set."""
    from tgems.data.webdataset import SplitFiles
    from tgems.features.extract import extract_features
    from tgems.features.shards import Encoding

    root = tmp_path_factory.mktemp("features")
    for dataset, task in (("scenes", "zeroshot_retrieval"), ("digits", "zeroshot_classification")):
        split = SplitFiles.of_folder(demo_data / dataset / "test", task)
        extract_features(demo_backbone, split, root / dataset, Encoding(batch_size=32))
    return root


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A canary; transformers keeps downloaded code and files in folders of the test's own."""
    from hostile import Canary
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield Canary(tmp_path / "canary-ran")
    for name in set(sys.modules) - known:
        if name.startswith("transformers_modules"):
            del sys.modules[name]


@pytest.fixture
def demo_folder(tmp_path):
    """A copy of a demo backbone, to be altered."""
    return shutil.copytree(ROOT / "assets/backbones/demo-vit-8", tmp_path / "backbone")


@pytest.fixture(scope="session")
def installed(made_once):
    """A wheel of this checkout, and the folder that it is installed in, apart from the checkout."""
    folder = made_once("wheel", _install_wheel)
    (file,) = (folder / "dist").glob("tgems-*.whl")
    return file, folder / "site"


def _install_wheel(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist", ROOT]
    subprocess.run(wheel, check=True, capture_output=True, text=True)
    (file,) = (folder / "dist").glob("tgems-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", file], check=True, capture_output=True)
