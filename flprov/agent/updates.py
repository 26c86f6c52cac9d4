# SPDX-License-Identifier: Apache-2.0
"""What a job's process hands over as its update: taken out of its reach, and checked before it leaves."""

from __future__ import annotations

import contextlib
from pathlib import Path

from flprov._base import remove_file
from flprov.blobs import BlobStore, Watch
from flprov.errors import JobFailed, UpdateRefused
from flprov.wire import pb, tensor_infos
from flprov.workers import Method

INLINE = 64 << 10  # bytes of tensors in a message; what is larger travels as a blob
_MOST_UPDATE = 64 << 30
_MOST_SECONDS = 1e9  # that an update may say it took; as at the server


async def take_out(
    payload: pb.Payload,
    out: Path,
    blobs: BlobStore,
    *,
    confinement: str = "",
    watch: Watch | None = None,
) -> pb.Payload:
    """The process's bytes, out of its reach; if it says them again, they are still there.

    They may not be on the disk yet (see `BlobStore.settle`). A process that is confined to its own folders,
    as Landlock does it for all that it will ever open, hands its file over; of any other one it is copied.

    Args:
        payload: what the process says.
        out: the folder that it writes to.
        blobs: of this site.
        confinement: how it is confined, as `Process.confinement` has it.
        watch: sees the bytes of a file as they are hashed.

    Raises:
        JobFailed: it named no file in its own folder `out`.
        LocalError: our disk is full or broken.
    """
    if payload.WhichOneof("where") == "inline":
        data = payload.inline
        if len(data) <= INLINE:
            return pb.Payload(inline=data, size=len(data))
        return pb.Payload(digest=await blobs.put(data), size=len(data))
    path = _out_file(payload, out)
    if confinement == Method.LANDLOCK.value:
        digest, size = await blobs.take(path, limit=_MOST_UPDATE, kept=_kept(path), watch=watch)
    else:
        digest, size = await blobs.adopt(path, limit=_MOST_UPDATE)
    return pb.Payload(digest=digest, size=size)


def remove_out(payload: pb.Payload, out: Path) -> None:
    """Remove the file that the process has handed over, if it is one.

    Not before the answer is on our disk: if we are killed until then, the process says it again.
    """
    with contextlib.suppress(JobFailed, OSError):
        path = _out_file(payload, out)
        remove_file(_kept(path))
        remove_file(path)


def clear_out(out: Path) -> None:
    """Remove what a process has left that was killed while it wrote."""
    for path in (*out.iterdir(), *_kept(out / "any").parent.iterdir()):
        with contextlib.suppress(OSError):
            path.unlink()


def verify_own_update(
    update: pb.UpdateMessage,
    order: pb.TaskOrder,
    blobs: BlobStore,
    max_weight: float | None,
    *,
    finite: bool = False,
) -> None:
    """The server checks the same again; here a bad update does not leave the building.

    Args:
        update: out of the process's reach.
        order: the task that it answers.
        blobs: of this site.
        max_weight: `sites.max_weight` of job.yml.
        finite: whether its numbers are known to be, see `FiniteFiles`.

    Raises:
        UpdateRefused: a number or a tensor is not what the task takes.
    """
    from flprov.wire import verify_numbers, verify_update  # late: with numpy, and not needed to be ready

    weight = update.weight if update.HasField("weight") else None
    verify_numbers(update.samples, weight, update.metrics, max_weight)
    if not 0 <= update.seconds <= _MOST_SECONDS:  # also true of NaN
        raise UpdateRefused(f"seconds is {update.seconds}; it must be from 0 to {_MOST_SECONDS:g}")
    base = tensor_infos(source_of(order.model, blobs)) if order.model.size else None
    verify_update(base, source_of(update.tensors, blobs), update.kind, order.expects, finite=finite)


def _out_file(payload: pb.Payload, out: Path) -> Path:
    """Where the process says its tensors are. Raises JobFailed when that is no place for them."""
    name = payload.file
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise JobFailed("the job's process named tensors that are not a file in its own folder")
    return out / name


def _kept(path: Path) -> Path:
    """Where a file that was handed over is until its answer is on our disk: out of the process's sight."""
    folder = path.parents[1] / "taken"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / path.name


def source_of(payload: pb.Payload, blobs: BlobStore) -> Path | bytes:
    """Where the bytes of a payload are that is no file of the job's process."""
    return blobs.path(payload.digest) if payload.digest else payload.inline
