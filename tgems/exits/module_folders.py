"""Names of the folders of trained exit modules. Imports neither torch nor open_clip, for dry runs."""

from pathlib import PurePath


def module_folders(seed: int, rate_targets: list[float], gates: list[str], scheme: str) -> list[str]:
    """Return the folders below `results/exits/{backbone}/{variant}` of a seed's modules: heads, then gates.

    Args:
        seed: Seed.
        rate_targets: Rate targets of the variant.
        gates: Kinds of trained gates (`tgems.costs.exit_costs.GATES`).
        scheme: `staged`, which trains gates on frozen heads; or `joint`, where the gates of a T-GEM have heads of their
            own.
    """
    folders = [f"{name}/seed-{seed}" for name in ("heads", *shared_gates(gates, scheme))]
    if scheme == "joint":
        joint = [joint_folder(guidance, seed, rate) for guidance in joint_guidance(gates) for rate in rate_targets]
        return folders + [f"{folder}/{part}" for folder in joint for part in ("heads", "gates")]
    return folders + [image_gates_folder(seed, rate) for rate in rate_targets if "image" in gates]


def shared_gates(gates: list[str], scheme: str) -> list[str]:
    """Return the kinds of gates that are trained on the shared heads, once per seed for all rate targets."""
    apart = ("image", "bank") if scheme == "joint" else ("image",)
    return [kind for kind in gates if kind not in apart]


def job_folders(seed: int, rate_targets: list[float], gates: list[str], scheme: str) -> list[str]:
    """Return the folders that jobs write, of which heads and gates that are trained together have one."""
    folders = module_folders(seed, rate_targets, gates, scheme)
    return list(dict.fromkeys(str(PurePath(f).parent) if f.startswith("joint-") else f for f in folders))


def joint_guidance(gates: list[str]) -> list[str]:
    """Return the trained gates that belong to a T-GEM, which are those that can be trained together with heads."""
    return [guidance for guidance in ("image", "bank") if guidance in gates]


def joint_folder(guidance: str, seed: int, rate_target: float) -> str:
    """Return the folder of the heads and gates that were trained together for one target."""
    return f"joint-{guidance}/rate-{rate_target:.2f}/seed-{seed}"


def image_gates_folder(seed: int, rate_target: float) -> str:
    """Return the folder of the image-guided gates of one target."""
    return f"image/rate-{rate_target:.2f}/seed-{seed}"
