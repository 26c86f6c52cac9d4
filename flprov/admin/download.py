# SPDX-License-Identifier: Apache-2.0
"""Results on their way to a person's machine: resumed where they broke off, checked, never half a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from flprov._base import parse_json
from flprov.admin.link import Link
from flprov.blobs import digest_file
from flprov.errors import Conflict, ProtocolError
from flprov.rpc import methods as m
from flprov.wire import pb
from flprov.wire.documents import ResultFile, ResultsDocument

PLOT = "metrics.png"  # drawn here
_GROWING = ("metrics.json", "record.json", "series.jsonl")

Progress = Callable[[str, int, int], None]  # file, bytes done, bytes in all


def download_results(link: Link, job_id: str, folder: Path, progress: Progress | None = None) -> list[Path]:
    """Bring every file of a job into `folder`; a file that is there already and whole is left alone.

    Raises:
        Conflict: a file of that name is in the way; nothing is overwritten.
        ProtocolError: the server sent something else than it announced.
    """
    results = link.document(ResultsDocument, m.LIST_RESULTS, pb.Query(id=job_id))
    folder.mkdir(parents=True, exist_ok=True)
    again = _job_in(folder) == results.job_id
    if not again and (folder / PLOT).exists():
        raise _in_the_way(folder / PLOT)
    return [_fetch(link, results.job_id, file, folder, progress, again=again) for file in results.files]


def _job_in(folder: Path) -> str:
    """Of which job an earlier download into this folder was; its metrics.json comes before what may grow."""
    try:
        found = parse_json((folder / "metrics.json").read_bytes())
    except (OSError, ValueError):
        return ""
    return str(found.get("job_id")) if isinstance(found, dict) else ""


def _in_the_way(target: Path) -> Conflict:
    return Conflict(
        f"{target} is there already, with other bytes than the job's", hint="name another folder with -o"
    )


def _fetch(
    link: Link, job_id: str, file: ResultFile, folder: Path, progress: Progress | None, *, again: bool
) -> Path:
    target = folder / _safe(file.name)
    if target.exists():
        if file.digest and target.stat().st_size == file.size and digest_file(target) == file.digest:
            return target
        if not (again and _grows(file.name)):
            raise _in_the_way(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    if not file.digest or (partial.exists() and partial.stat().st_size > file.size):
        partial.unlink(missing_ok=True)
    with partial.open("ab") as out:
        for data in _rest(link, job_id, file.name, out.tell()):
            out.write(data)
            if file.digest and out.tell() > file.size:
                partial.unlink()
                raise ProtocolError(f"{file.name} is longer than the {file.size} bytes announced")
            if progress:
                progress(file.name, min(out.tell(), file.size), file.size)
        out.flush()
        os.fsync(out.fileno())
    _verify(partial, file)
    partial.replace(target)
    return target


def _grows(name: str) -> bool:
    """Whether this is a file of ours that is fetched anew, because the job has added to it since."""
    return name in _GROWING or name.startswith("logs/")


def _rest(link: Link, job_id: str, name: str, offset: int) -> Iterator[bytes]:
    request = pb.DownloadRequest(job_id=job_id, name=name, offset=offset)
    yield from link.download(m.DOWNLOAD_RESULT, request)


def _verify(partial: Path, file: ResultFile) -> None:
    if file.digest and digest_file(partial) != file.digest:
        partial.unlink()
        raise ProtocolError(f"{file.name} arrived with other bytes than announced", hint="download it again")


def _safe(name: str) -> str:
    """A name that stays inside the folder, whatever the server says."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") for part in parts)  # also . and ..; and no .bashrc of a person's home
    if not parts or name.startswith("/") or hidden or "\\" in name or not name.isprintable():
        raise ProtocolError(f"the server named a file {name[:80]!r}, which has no place here")
    return str(PurePosixPath(*parts))
