"""Training from files that need not fit in memory gives what training in memory gives."""

import pytest
import torch
from conftest import DEMO, options, variant
from safetensors.torch import load_file

from tgems.backbones.references import model_config
from tgems.config.training import ConfidenceTraining
from tgems.costs.exit_costs import module_costs
from tgems.costs.saved_costs import write_costs
from tgems.data.webdataset import SplitFiles
from tgems.exits.training_jobs import run_gates, run_heads, run_image_gates, run_lookahead
from tgems.features.cache import load_features
from tgems.features.extract import extract_features
from tgems.features.shards import Encoding


def _train(features, macs, out, gigabytes):
    """Every kind of module, a pass or two each -> weights by kind."""
    small = {"passes": 2, "batch_size": 16}
    run_heads(features, macs, options("heads", hidden=4, products="float32", **small), 0, f"{out}/heads", gigabytes)
    heads = [f"{out}/heads"]
    image = options("image_gates", foresight_passes=1, **small)
    run_lookahead(features, macs, heads, image, [0], [f"{out}/lookahead"], gigabytes)
    run_image_gates(features, macs, [f"{out}/lookahead"], 0.6, image, [0], [f"{out}/image"], gigabytes)
    bank = options("bank_gates", banks_per_image=1, bank_batch_size=16, **small)
    run_gates("bank", features, macs, heads, bank, [0], [f"{out}/bank"], gigabytes)
    confidence = ConfidenceTraining(hidden=8, **small)
    run_gates("confidence", features, macs, heads, confidence, [0], [f"{out}/confidence"], gigabytes)
    kinds = ("heads", "lookahead", "image", "bank", "confidence")
    return {kind: load_file(f"{out}/{kind}/model.safetensors") for kind in kinds}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_streamed_training_is_the_same(demo_backbone, demo_data, tmp_path, dtype):
    macs = str(tmp_path / "macs.json")
    write_costs(macs, module_costs(model_config(DEMO), variant(4, 8)), {})
    folder, split = tmp_path / "features", SplitFiles.of_folder(demo_data / "scenes/test", "zeroshot_retrieval")
    extract_features(demo_backbone, split, folder, Encoding(dtype=dtype))
    trained = {}
    for gigabytes in (8, 0):
        assert load_features(folder, in_memory_gb=gigabytes).streamed == (gigabytes == 0)
        trained[gigabytes] = _train(str(folder), macs, tmp_path / f"exits-{gigabytes}", gigabytes)
    for kind, weights in trained[8].items():
        for name, value in weights.items():
            assert torch.allclose(value, trained[0][kind][name], atol=1e-5), (kind, name)
    assert all(torch.equal(v, trained[0]["heads"][k]) for k, v in trained[8]["heads"].items())
