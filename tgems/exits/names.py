"""Names of exit policies and of the folders that their modules are in, for a dry run: imports nothing."""

POLICY_NAMES = (
    *("full", "fixed", "fixed_raw", "hull", "random", "shuffled", "max_softmax", "entropy", "margin", "patience"),
    *("saturation", "learned_confidence", "tgem", "tgem_bank", "oracle", "oracle_agree"),
)


def trained_gates(policies: list[str], guidance: list[str]) -> list[str]:
    """Gates to train, of `image`, `bank` and `confidence`: what guidance asks for, and confidence for its policy."""
    return [*guidance, *(["confidence"] if "learned_confidence" in policies else [])]


def module_folders(seed: int, rate_targets: list[float], gates: list[str]) -> list[str]:
    """Folders below `results/exits/{backbone}/{variant}` that a seed's modules are in: heads, then gates.

    Args:
        seed: Seed.
        rate_targets: Targets that image-guided gates were trained for.
        gates: Trained gates, of `image`, `bank` and `confidence`.
    """
    folders = [f"{name}/seed-{seed}" for name in ("heads", "bank", "confidence") if name in ("heads", *gates)]
    return folders + [image_gates_folder(seed, rate) for rate in rate_targets if "image" in gates]


def image_gates_folder(seed: int, rate_target: float) -> str:
    """Folder of the image-guided gates of one target."""
    return f"image/rate-{rate_target:.2f}/seed-{seed}"
