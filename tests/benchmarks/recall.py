"""Time and peak memory of retrieval recall, beside clip_benchmark's computation on the same embeddings.

    python tests/benchmarks/recall.py                 # both sides on 5,000 images and 25,000 captions
    python tests/benchmarks/recall.py --large         # tgems alone on 30,000 images and 150,000 captions

Every side runs in a fresh process. This process never imports torch: a child's peak starts at its parent's.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

RECALL_AT = (1, 5, 10)
NOISE = 6.0  # length of the noise of a caption of a unit image: recall@1 is then near a half
LARGE_LIMIT = 4 * 2**30


def embeddings(images: int, captions: int, dim: int, seed: int):
    """Unit images `[n, D]` and captions near them `[m, D]`, made in place so that nothing else adds to the peak."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, dim, generator=generator)
    x /= x.norm(dim=-1, keepdim=True)
    y = torch.randn(images * captions, dim, generator=generator)
    y *= NOISE / dim**0.5
    y.view(images, captions, dim).add_(x[:, None])
    y /= y.norm(dim=-1, keepdim=True)
    return x, y, torch.arange(images).repeat_interleave(captions)


def ours(images, texts, owner, batch_size: int) -> dict[str, float]:
    from tgems.evaluation.metrics import retrieval_ranks

    to_texts, to_images = retrieval_ranks(images, texts, owner)
    sides = {"image_retrieval": to_images, "text_retrieval": to_texts}
    return {f"{s}_recall@{k}": (ranks < k).float().mean().item() for s, ranks in sides.items() for k in RECALL_AT}


def theirs(images, texts, owner, batch_size: int) -> dict[str, float]:
    """Compute recalls as `zeroshot_retrieval.evaluate` does once everything is encoded."""
    import torch
    from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k

    scores = texts @ images.t()
    positive = torch.zeros_like(scores, dtype=bool)
    positive[torch.arange(len(scores)), owner] = True
    recalls = {}
    for k in RECALL_AT:
        for side, s, p in (("image_retrieval", scores, positive), ("text_retrieval", scores.T, positive.T)):
            found = batchify(recall_at_k, s, p, batch_size, "cpu", k=k)
            recalls[f"{side}_recall@{k}"] = (found > 0).float().mean().item()
    return recalls


SIDES = {"tgems": ours, "clip_benchmark": theirs}


def peak() -> int:
    """Largest resident size of this process so far, in bytes (Linux counts in KiB, macOS in bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def child(args: argparse.Namespace) -> None:
    """Measure one side and print it as JSON."""
    import torch

    torch.set_num_threads(args.threads)
    side = SIDES[args.side]
    side(*embeddings(32, 2, 8, seed=0), batch_size=8)
    drawn = embeddings(args.images, args.captions, args.dim, args.seed)
    before, seconds = peak(), []
    for _ in range(args.repeats):
        start = time.perf_counter()
        recalls = side(*drawn, batch_size=args.batch_size)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": min(seconds), "added": peak() - before, "peak": peak(), "recalls": recalls}))


def measure(side: str) -> dict:
    """Run one side in a process of its own, with this script's arguments."""
    run = subprocess.run([sys.executable, *sys.argv, "--side", side], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def compare(args: argparse.Namespace) -> bool:
    """Print both sides and whether all recalls are equal."""
    measured = {side: measure(side) for side in SIDES}
    mine, other = measured["tgems"], measured["clip_benchmark"]
    print(
        f"{args.images} images, {args.captions} captions each, D={args.dim}, {args.threads} threads, seed {args.seed}"
    )
    print(f"{'':<16}{'seconds':>10}{'added MiB':>12}{'peak MiB':>10}")
    for side, m in measured.items():
        print(f"{side:<16}{m['seconds']:>10.2f}{m['added'] / 2**20:>12.0f}{m['peak'] / 2**20:>10.0f}")
    memory = mine["added"] / other["added"]
    print(f"tgems is {other['seconds'] / mine['seconds']:.1f} times faster, with {memory:.3f} of the added peak memory")
    for name, value in mine["recalls"].items():
        same = "equal" if value == other["recalls"][name] else "DIFFERENT"
        print(f"{name:<28}{value:>10.6f}{other['recalls'][name]:>10.6f}  {same}")
    return mine["recalls"] == other["recalls"]


def large(args: argparse.Namespace) -> bool:
    """Print the time and peak memory of tgems alone, and whether the latter stayed below the limit."""
    m = measure("tgems")
    print(f"{args.images} images, {args.captions} captions each, D={args.dim}, {args.threads} threads")
    print(f"{m['seconds']:.1f} s, peak {m['peak'] / 2**20:.0f} MiB in total, {m['added'] / 2**20:.0f} MiB added")
    return m["peak"] < LARGE_LIMIT


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int)
    parser.add_argument("--captions", type=int, default=5, help="captions of each image")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, help="the fastest counts; 3, or 1 with --large")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64, help="of clip_benchmark; its own default is 64")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--large", action="store_true", help="30,000 images, tgems alone, below 4 GiB in total")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.images = args.images or (30_000 if args.large else 5_000)
    args.repeats = args.repeats or (1 if args.large else 3)
    return args


if __name__ == "__main__":
    options = arguments()
    if options.side:
        child(options)
    else:
        sys.exit(not (large if options.large else compare)(options))
