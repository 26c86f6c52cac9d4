# SPDX-License-Identifier: Apache-2.0
"""The models of a workflow that are files of their own: written once, named by their digest from then on.

What is calculated is written to a file in out/ and mapped (`flprov.sdk.results`). When the controller
broadcasts it, or commits it, that very file is handed to the server, and later the same model goes by its
digest. A model is known by its arrays: the same ones, and nobody has written to them since.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flprov.blobs import digest_file, digest_of
from flprov.errors import ProtocolError
from flprov.messages import Tensors
from flprov.sdk import ResultArrays, Results
from flprov.wire import (
    Shaped,
    TensorFile,
    is_untouched,
    mapping_of,
    pb,
    read_metadata,
    read_tensors,
    write_tensors,
)
from flprov.workers.payloads import INLINE

Array = NDArray[np.generic]


@dataclass(kw_only=True, eq=False)
class ModelFile:
    """Tensors that fill a file. It does not keep them: a file of our own goes with the last of them."""

    size: int
    format: str  # as its header says
    name: str  # in out/, of those that the server has not got
    handed: bool  # whether the server has it
    digest: str = ""  # once it is known
    arrays: Mapping[str, weakref.ref[Array]]
    data: weakref.ref[mmap.mmap]
    removal: weakref.finalize[[Path, int], mmap.mmap] | None = None

    def is_of(self, tensors: Tensors) -> bool:
        """Whether the file holds just these tensors."""
        if tensors.keys() != self.arrays.keys():
            return False
        if any(self.arrays[name]() is not array for name, array in tensors.items()):
            return False
        data = self.data()
        return data is not None and is_untouched(data)


class ModelFiles:
    """Those that one workflow has made, or was given.

    Attributes:
        format: what the header of a new file says of where its tensors come from; empty: nothing.
    """

    def __init__(self, folder: Path, *, format: str = "") -> None:  # noqa: A002 - safetensors' own word
        self.format = format
        self._out = folder / "out"
        self._known: list[ModelFile] = []

    @property
    def metadata(self) -> Mapping[str, str]:
        """Of a new file."""
        return {"format": self.format} if self.format else {}

    def open_results(self, wanted: Mapping[str, Shaped]) -> AbstractContextManager[Results]:
        """See `ResultFolder.open_results`."""
        size = sum(dtype.itemsize * int(np.prod(shape, dtype=object)) for dtype, shape in wanted.values())
        return self._new_file(wanted) if size > INLINE else contextlib.nullcontext(ResultArrays(wanted))

    @contextlib.contextmanager
    def _new_file(self, wanted: Mapping[str, Shaped]) -> Iterator[Results]:
        name = _new_name()
        with TensorFile(self._out / name, wanted, self.metadata) as file:
            yield file
        self._add(file.tensors, name=name, size=file.size)

    def keep(self, tensors: Tensors) -> tuple[Tensors, ModelFile | None]:
        """The same tensors in a file: that which they have, or a new one. None: they are too small for one.

        Raises:
            Misuse: a tensor has a dtype that cannot travel.
        """
        found = self.find(tensors)
        if found is not None or sum(array.nbytes for array in tensors.values()) <= INLINE:
            return tensors, found
        name = _new_name()
        size = write_tensors(self._out / name, tensors, self.metadata)
        mapped = read_tensors(self._out / name)
        kept = {name: mapped[name] for name in tensors}
        return kept, self._add(kept, name=name, size=size)

    def adopt(self, source: Path | bytes) -> Tensors:
        """The tensors of a model that the server has handed in."""
        tensors = read_tensors(source)
        if isinstance(source, Path) and any(mapping_of(array) is not None for array in tensors.values()):
            form = read_metadata(source).get("format", "")
            self._add(tensors, size=source.stat().st_size, form=form)
        return tensors

    def find(self, tensors: Tensors) -> ModelFile | None:
        """The file that holds just these tensors, as a new one would."""
        self._known = [one for one in self._known if one.data() is not None]
        return next((one for one in self._known if one.format == self.format and one.is_of(tensors)), None)

    def payload(self, file: ModelFile) -> pb.Payload:
        """What names the file to the server: itself, and from then on its digest."""
        if file.handed:
            return pb.Payload(digest=self.digest(file), size=file.size)
        file.handed = True
        if file.removal is not None:
            file.removal.detach()  # the server takes it
        return pb.Payload(file=file.name, size=file.size)

    def digest(self, file: ModelFile) -> str:
        """The digest of a file whose tensors are there; calculated once, if nobody has told it."""
        data = file.data()
        if not file.digest and data is not None:
            file.digest = digest_of(memoryview(data))
        return file.digest

    def digest_of(self, name: str) -> str:
        """The digest of a file in out/ that is about to be handed over."""
        found = next((one for one in self._known if one.name == name), None)
        return digest_file(self._out / name) if found is None else self.digest(found)

    def settle(self, model: ModelFile | None, digest: str, best: ModelFile | None) -> None:
        """The server has saved a state: besides its model and its best one, it keeps nothing of ours."""
        if model is not None:
            if model.digest not in ("", digest):
                raise ProtocolError("the server saved another model than it was handed")
            model.digest = digest
        self._known = [one for one in self._known if one in (model, best) or not one.handed]

    def _add(self, tensors: Tensors, *, size: int, name: str = "", form: str | None = None) -> ModelFile:
        data = next(found for array in tensors.values() if (found := mapping_of(array)) is not None)
        made = ModelFile(
            size=size,
            format=self.format if form is None else form,
            name=name,
            handed=not name,
            arrays={key: weakref.ref(array) for key, array in tensors.items()},
            data=weakref.ref(data),
        )
        if name:
            made.removal = weakref.finalize(data, _remove, self._out / name, os.getpid())
            made.removal.atexit = False  # who starts the process cleans up after it
        self._known.append(made)
        return made


def _remove(path: Path, maker: int) -> None:
    if os.getpid() == maker:  # not in a process that the controller has forked
        path.unlink(missing_ok=True)


def _new_name() -> str:
    return f"{secrets.token_hex(8)}.safetensors"  # new also after a restart, when old files may be there
