"""Complete the local copy of a clip_benchmark data set from the Hugging Face hub, and verify every file.

The folder `.tgems/` of the copy holds a record of every file that was fetched or checked against the hub, and partial
downloads, so that an interrupted download resumes where it stopped. A complete copy is used without a network. A branch
or tag is resolved once: all later files come from the commit that it referred to when the first file was fetched.
"""

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from tgems.data.dataset_entries import Part
from tgems.data.network import network_errors, refusal
from tgems.data.tar_index import check_end
from tgems.data.text_files import read_shard_count
from tgems.errors import UserError
from tgems.outputs import write_json, writing
from tgems.provenance import RUN_AGAIN, digest_file
from tgems.system_errors import system_line
from tgems.untrusted import Closed, Digest, read_json_as

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remote:
    """The hub's description of a file: its size, and its SHA-256 (large files) or git blob id (small files)."""

    size: int
    sha256: str | None
    blob: str | None

    def matches(self, path: Path) -> bool:
        """Return whether a local file has this content."""
        if path.stat().st_size != self.size:
            return False
        if self.sha256 is not None:
            return digest_file(path) == self.sha256
        return hashlib.sha1(b"blob %d\0" % self.size + path.read_bytes()).hexdigest() == self.blob


class Record(Closed):
    """Origin of a local file, and its digest, size and time of modification, which tell whether it has changed."""

    repo: str
    revision: str
    commit: str
    sha256: Digest
    size: int
    mtime_ns: int


class HubCopy:
    """The local copy of one data set.

    Args:
        dataset: Name of the data set, for messages.
        repo: Repository on the hub, `ORG/REPO`.
        revision: Commit, branch or tag.
        root: Folder of the copy.
        pinned: Commit that the revision referred to when another split was fetched, as its receipt states; None without
            such a receipt, in which case the records of the copy are read.
    """

    def __init__(self, dataset: str, repo: str, revision: str, root: Path, pinned: str | None = None):
        self.dataset, self.repo, self.revision, self.root = dataset, repo, revision, Path(root)
        self.pinned = pinned
        self.commit: str | None = None
        self.remote: dict[str, Remote] = {}

    def provide(self, part: Part, prompts: list[str]) -> tuple[list[dict], list[dict]]:
        """Provide all files of a split: check those that are there, and download the others.

        Args:
            part: Part of the data set that is the split.
            prompts: Names of the prompt files that are needed.

        Returns:
            Shards and prompt files, each with its path below the root, SHA-256 and size.

        Raises:
            UserError: A file is missing and cannot be downloaded, or differs from the hub's.
        """
        count_file = f"{part.folder}/nshards.txt"
        self._complete([*prompts, count_file])
        count = read_shard_count(self.root / count_file, RUN_AGAIN)
        shards = part.pick([f"{part.folder}/{i}.tar" for i in range(count)], self.place)
        files = {file["path"]: file for file in self._complete([*prompts, count_file, *shards])}
        return [files[path] for path in shards], [files[path] for path in prompts]

    def _complete(self, paths: list[str]) -> list[dict]:
        """Provide files: without a network if none is missing, else by comparing all of them with the hub's."""
        missing = [path for path in paths if not self._usable(path)]
        if len({record.commit for path in paths if (record := self._record(path))}) > 1:
            missing = missing or paths
        if missing and not self.remote:
            self._connect(missing[0])
        return [self._take(path) for path in paths]

    @property
    def place(self) -> str:
        """Repository and revision, for messages."""
        return f"{self.repo}@{self.revision}"

    def _recorded_commit(self) -> str | None:
        """Return the commit of the files that were fetched at this revision; None if there are none."""
        for file in sorted((self.root / ".tgems").glob("**/*.json")):
            record = read_json_as(Record, file, RUN_AGAIN)
            if (record.repo, record.revision) == (self.repo, self.revision) and record.commit:
                return record.commit
        return None

    def _connect(self, missing: str) -> None:
        """Request the commit and the list of files from the hub; `missing` is the file that makes this necessary."""
        from huggingface_hub import HfApi, constants, errors

        place = f"{self.dataset}: cannot read {constants.ENDPOINT}/datasets/{self.place}"
        pinned = self.pinned or self._recorded_commit()
        try:
            info = HfApi().dataset_info(self.repo, revision=pinned or self.revision, files_metadata=True)
        except errors.RevisionNotFoundError:
            if pinned not in (None, self.revision):
                raise UserError(
                    f"{place}: it was commit {pinned} when it was fetched, which no longer exists; set "
                    f"datasets.{self.dataset}.revision to another commit"
                ) from None
            raise UserError(f"{place}: no such revision; check datasets.{self.dataset}.revision") from None
        except network_errors() as error:
            if refused := refusal(error):
                raise UserError(f"{place}: {refused}") from None
            raise UserError(
                f"{self.dataset}: {self.root / missing} is missing, and {constants.ENDPOINT} cannot be reached "
                f"({_reason(error)}); connect to download {self.place}, or put the data set at {self.root} in the "
                "layout of docs/adding-a-dataset.md"
            ) from None
        if pinned not in (None, self.revision):
            logger.info("%s: %s means commit %s, as when it was first fetched", self.dataset, self.place, pinned)
        self.commit = info.sha
        self.remote = {
            file.rfilename: Remote(file.size or 0, file.lfs.sha256 if file.lfs else None, file.blob_id)
            for file in info.siblings or ()
        }

    def _record_file(self, path: str) -> Path:
        return self.root / ".tgems" / f"{path}.json"

    def _record(self, path: str) -> Record | None:
        file = self._record_file(path)
        if not os.path.isfile(file):
            return None
        return read_json_as(Record, file, RUN_AGAIN)

    def _usable(self, path: str) -> bool:
        """Return whether a file is there that was downloaded at this revision or that the user put there."""
        record = self._record(path)
        if record is not None:
            meant = record.commit == self.pinned if self.pinned else self.revision in (record.revision, record.commit)
            if record.repo != self.repo or not meant:
                return False
        return os.path.isfile(self.root / path)

    def _take(self, path: str) -> dict:
        """Return a file's entry in the receipt, after checking the file or, where necessary, downloading it."""
        local, record = self.root / path, self._record(path)
        if not self._usable(path):
            return self._fetch(path)
        if record is None and local.suffix == ".tar":
            check_end(local)
        if record is not None:
            stat = local.stat()
            unchanged = (stat.st_size, stat.st_mtime_ns) == (record.size, record.mtime_ns)
            if not unchanged and digest_file(local) != record.sha256:
                raise UserError(f"{local}: changed since it was downloaded from {self.place}; delete it and run again")
            if record.commit == self.commit or not self.remote:
                self.commit = record.commit
                return {"path": path, "sha256": record.sha256, "size": record.size}
        if not self.remote:
            return {"path": path, "sha256": digest_file(local), "size": local.stat().st_size}
        if self._remote(path).matches(local):
            return self._write_record(path)
        if record is not None:
            return self._fetch(path)
        raise UserError(f"{local}: differs from {self.place}; move it away, or set datasets.{self.dataset}.root")

    def _remote(self, path: str) -> Remote:
        if path not in self.remote:
            splits = sorted(p.rpartition("/")[0] for p in self.remote if p.endswith("/nshards.txt"))
            raise UserError(f"{self.dataset}: {self.place} has no {path!r}; its splits: {', '.join(splits) or 'none'}")
        return self.remote[path]

    def _write_record(self, path: str) -> dict:
        local, stat = self.root / path, (self.root / path).stat()
        sha256 = self.remote[path].sha256 or digest_file(local)
        record = Record(
            repo=self.repo, revision=self.revision, commit=self.commit or "", sha256=sha256,
            size=stat.st_size, mtime_ns=stat.st_mtime_ns,
        )  # fmt: skip
        write_json(self._record_file(path), record.model_dump())
        return {"path": path, "sha256": sha256, "size": stat.st_size}

    def _fetch(self, path: str) -> dict:
        """Download a file unless another job has done so meanwhile; it appears only once it is verified."""
        from filelock import FileLock

        remote, local = self._remote(path), self.root / path
        partial = self.root / ".tgems" / f"{path}.{remote.sha256 or remote.blob}.partial"
        with writing(local, partial):
            partial.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{partial}.lock"):
                if not (local.is_file() and remote.matches(local)):
                    self._download(path, remote, partial)
                    if not remote.matches(partial):
                        partial.unlink()
                        raise UserError(f"{self.dataset}: {path} of {self.place} arrived damaged; run again")
                    local.parent.mkdir(parents=True, exist_ok=True)
                    partial.replace(local)
                return self._write_record(path)

    def _download(self, path: str, remote: Remote, partial: Path) -> None:
        """Download what is missing from a partial file.

        `hf_hub_download(local_dir=...)` would not do: it restarts a download that an earlier process began, does not
        compare digests, and replaces a user's own file that differs.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(self.repo, path, repo_type="dataset", revision=self.commit)
        with open(partial, "ab") as file:
            done = file.tell()
            state = f", {done} already downloaded" if done else ""
            logger.info("%s: downloading %s (%d bytes%s) of %s", self.dataset, path, remote.size, state, self.place)
            try:
                http_get(url, file, resume_size=done, headers=build_hf_headers(), expected_size=remote.size)
            except network_errors() as error:
                if system_line(error):  # the disk's error, not the network's
                    raise
                if refused := refusal(error):
                    raise UserError(f"{self.dataset}: {path} of {self.place} cannot be read: {refused}") from None
                raise UserError(
                    f"{self.dataset}: {path} of {self.place} broke off after {file.tell()} of {remote.size} bytes "
                    f"({_reason(error)}); run again to resume from there"
                ) from None


def _reason(error: Exception) -> str:
    """Return the beginning of an error's message on one line."""
    return " ".join(str(error).split())[:100] or type(error).__name__
