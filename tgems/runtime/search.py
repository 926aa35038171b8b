"""Search the Parquet files of `tgems encode` for images that match a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import torch

from tgems.errors import UserError, first_line, reading
from tgems.runtime.index import INDEX, ORIGIN
from tgems.runtime.model import EarlyExitCLIP

pc: Any = pyarrow.compute  # its functions are made at run time, so that type checkers do not know them


def search_index(
    text: str,
    index: Sequence[Path],
    model: str | None = None,
    k: int = 10,
    backbone: str | None = None,
    tokenizer: str | None = None,
    trust_policy_file: Path | None = None,
) -> tuple[list[tuple[float, str, int]], list[str]]:
    """Find the best images of an index for a text.

    Args:
        text: Text to search for.
        index: Parquet files of `encode_images`.
        model: Folder or hub id; None for the one that the index names.
        k: Number of results.
        backbone: Where to read the backbone instead of the T-GEM's reference.
        tokenizer: See `tgems.runtime.folder.load`.
        trust_policy_file: See `tgems.runtime.folder.load`.

    Returns:
        (score, image, exit block), best first; and warnings if embeddings are of mixed origin or of another backbone.

    Raises:
        UserError: The text is empty; a file is missing, empty or no index, or embeddings differ in length.
    """
    if not text.strip():
        raise UserError(f"text {text!r:.60}: is empty; write what to search for")
    table = pa.concat_tables([_read_index(path) for path in index])
    warnings = []
    for column in ORIGIN:
        values = sorted(table[column].unique().to_pylist())
        if len(values) > 1:
            short = ", ".join(v[:12] for v in values)
            warnings.append(f"the index mixes {len(values)} values of {column} ({short}): scores are not comparable")
    model = model or table["model"][0].as_py()
    loaded = EarlyExitCLIP.from_pretrained(
        model, backbone=backbone, tokenizer=tokenizer, trust_policy_file=trust_policy_file
    )
    dim = loaded.early_exit.costs.embed_dim
    if pc.list_value_length(table["embedding"]).unique().to_pylist() != [dim]:
        raise UserError(
            f"the embeddings of the index are not of {dim} numbers, as that of the text is; encode all images again"
        )
    if table["backbone"].unique().to_pylist() != [loaded.backbone.weights_digest]:
        warnings.append(f"the text is encoded by {loaded.backbone.weights_digest[:12]}, not by the index's backbone")
    query = loaded.encode_text(loaded.tokenizer([text]), normalize=True)[0]
    embeddings = torch.from_dlpack(pc.list_flatten(table["embedding"]).combine_chunks())
    scores = embeddings.view(-1, dim) @ query
    best = scores.topk(min(k, len(scores)))
    found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [(s, table["image"][i].as_py(), table["exit_block"][i].as_py()) for s, i in found], warnings


def _read_index(path: Path) -> pa.Table:
    way_out = f"make it with `tgems encode IMAGES --model FOLDER --out {path.with_suffix('.parquet')}`"
    with reading(path, way_out):
        if not path.is_file():
            raise UserError(f"{path}: {'a folder, not a file' if path.is_dir() else 'missing'}; {way_out}")
    try:
        with reading(path, way_out):
            table = pq.ParquetFile(path).read()  # `pq.read_table` imports pandas
    except pa.ArrowException as error:
        raise UserError(f"{path}: not a Parquet file ({first_line(error)}); {way_out}") from error
    if "hold_rate" not in table.column_names:  # indices of earlier versions
        table = table.append_column("hold_rate", pa.array(["none"] * len(table), pa.string()))
    if missing := [name for name in INDEX.names if name not in table.column_names]:
        raise UserError(f"{path}: not an index of `tgems encode`: it has no column {missing[0]!r}")
    try:
        table = table.select(INDEX.names).cast(INDEX)
    except pa.ArrowException as error:
        raise UserError(f"{path}: not an index of `tgems encode`: {first_line(error)}") from error
    numbers = pc.list_flatten(table["embedding"])
    empty = [name for name in INDEX.names if table[name].null_count]
    if numbers.null_count:
        empty.append("embedding")
    what = f"column {empty[0]!r} has empty cells" if empty else "" if len(table) else "it is empty"
    if not what and not pc.all(pc.is_finite(numbers)).as_py():
        what = "column 'embedding' holds numbers that are not finite"
    if what:
        raise UserError(f"{path}: not an index of `tgems encode`: {what}")
    return table
