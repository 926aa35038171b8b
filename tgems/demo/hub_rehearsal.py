"""Rehearse `configs/laptop.yaml` to the end without the internet, in a few minutes.

python -m tgems.demo.hub_rehearsal [OUT]

A server on this machine stands for the Hugging Face hub, with random weights of the full-size model and a few generated
images per data set. The configuration is used as it is, with its sources, and only numbers are made smaller. Results,
downloads and the hub's cache are in OUT; metrics are meaningless. A second run continues a first one.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

from tgems.data.dataset_entries import given
from tgems.demo.hub_copies import COPIES, repository, write_copy, write_weights
from tgems.demo.hub_server import COMMIT, Hub, serve
from tgems.errors import UserError
from tgems.failures import one_line_errors

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/laptop.yaml"
SIZES = (
    *("seeds=[0]", "rate_targets=[0.45, 0.75]"),
    "features={batch_size: 16, in_memory_gb: 0}",
    "heads={passes: 4, fold_passes: 2, batch_size: 16}",
    "image_gates={passes: 1, foresight_passes: 1, batch_size: 16, bank_size: 50}",
    "bank_gates={passes: 2, banks_per_image: 1, bank_batch_size: 16, batch_size: 16, largest_bank: 64}",
    "confidence_gates={passes: 2, batch_size: 16}",
)
"""Changes that the rehearsal makes: fewer seeds, rates and passes, and smaller batches and banks."""


def write_remote(folder: Path, config: dict) -> dict[str, Path]:
    """Write the repositories that a configuration downloads from, unless they are there.

    Args:
        folder: Folder to write to.
        config: The configuration, as read from YAML.

    Returns:
        Folder of each repository.
    """
    from open_clip import get_pretrained_cfg

    repos = {}
    for name in config["datasets"]:
        repos[repository(name)] = folder / name
        write_copy(name, folder / name)
    for name, entry in config["backbones"].items():
        published = get_pretrained_cfg(entry["model"], entry["pretrained"])
        repos[published["hf_hub"].strip("/")] = folder / name
        write_weights(entry["model"], entry["pretrained"], folder / name)
    return repos


def pinned_commits(config: dict) -> dict[str, str]:
    """Return the commits at which a configuration reads data sets, by repository."""
    revisions = {repository(name): given()[name]["revision"] for name in config["datasets"]}
    return {repo: COMMIT if revision == "main" else revision for repo, revision in revisions.items()}


def environment(hub: Hub, out: Path) -> dict[str, str]:
    """Return the environment of a run that downloads from this hub, into a cache of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE"))}
    return kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(out / "huggingface"), "PYTHONPATH": str(ROOT)}


def rehearse(out: Path, cores: str, more: list[str]) -> int:
    """Run the workflow and its report against a hub on this machine.

    Args:
        out: Folder of results, downloads and everything else.
        cores: Number of cores, or `all`.
        more: More arguments for Snakemake.

    Returns:
        Exit code of Snakemake.

    Raises:
        UserError: This is not a checkout.
    """
    if not (ROOT / "Snakefile").is_file():
        raise UserError(f"{ROOT}: no Snakefile, which the rehearsal runs; call it in a checkout of tgems")
    config, out = yaml.safe_load(CONFIG.read_text()), out.absolute()
    assert set(config["datasets"]) <= COPIES.keys()
    with serve(write_remote(out / "remote", config)) as hub:
        hub.commits |= pinned_commits(config)
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(out)]
        snakemake += ["--configfile", str(CONFIG), "--config", *SIZES]
        env = environment(hub, out)
        code = subprocess.run([*snakemake, "--cores", cores, *more], env=env, check=False).returncode
        if code == 0 and not more:
            report = [*snakemake, "--report", str(out / config["results"] / "report.html")]
            code = subprocess.run(report, env=env, check=False).returncode
    return code


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tgems.demo.hub_rehearsal",
        description=str(__doc__).splitlines()[0],
        epilog="Other arguments go to Snakemake, such as -n; the report is then left out.",
    )
    parser.add_argument("out", type=Path, nargs="?", default=Path("results/rehearsal-hub"), help="folder to write to")
    parser.add_argument("--cores", default="all", help="number of cores (default: all)")
    options, more = parser.parse_known_args()
    with one_line_errors():
        begun = time.monotonic()
        code = rehearse(options.out, options.cores, more)
        if code:
            sys.exit(code)
        print(f"{options.out}: rehearsed in {time.monotonic() - begun:.0f} seconds")


if __name__ == "__main__":
    main()
