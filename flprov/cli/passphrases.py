# SPDX-License-Identifier: Apache-2.0
"""Passphrases: from a file, typed at the terminal, or from the environment; never from an argument."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from flprov._base import dataclass
from flprov.errors import LocalError, Misuse

_LARGEST = 1023  # bytes; what OpenSSL takes


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where one passphrase may come from."""

    option: str  # "--passphrase"; with "-file" behind it, the one that names a file
    variable: str
    whose: str  # "the CA's keys"


CA = Source(option="--passphrase", variable="FLPROV_CA_PASSPHRASE", whose="the CA's keys")
PEOPLE = Source(
    option="--people-passphrase", variable="FLPROV_PEOPLE_PASSPHRASE", whose="the keys in people's kits"
)
SERVER_CA = Source(
    option="--ca-passphrase", variable="FLPROV_CA_PASSPHRASE", whose="the CA's keys in the server's kit"
)
_KIT_VARIABLE = "FLPROV_KIT_PASSPHRASE"


def passphrase_options(source: Source, name: str) -> Callable[[Any], Any]:
    """The two options of one passphrase; the command gets `<name>_file` and `ask_<name>`."""

    def add(command: Any) -> Any:  # noqa: ANN401 - click decorates functions and commands alike
        command = click.option(
            source.option,
            f"ask_{name}",
            is_flag=True,
            help="The same, with a passphrase typed at the terminal.",
        )(command)
        return click.option(
            f"{source.option}-file",
            f"{name}_file",
            type=click.Path(path_type=Path),
            help=f"Encrypt and open {source.whose} with the passphrase in this file.",
        )(command)

    return add


def read_passphrase(source: Source, file: Path | None, *, ask: bool, is_new: bool) -> bytes | None:
    """The passphrase, or None if there is none.

    Args:
        is_new: whether nothing is encrypted with it yet, so that a slip of the finger must be noticed.

    Raises:
        Misuse: two ways at once, no terminal to ask at, or what was found is no passphrase.
        LocalError: the file cannot be read.
    """
    if file is not None and ask:
        raise Misuse(f"{source.option} and {source.option}-file were both given", hint="give one of them")
    if file is not None:
        return _read_file(file)
    if ask:
        return _ask(f"Passphrase of {source.whose}", source, is_new=is_new)
    secret = _from_environment(source.variable)
    return _verified(secret, source.variable) if secret else None


def has_passphrase(source: Source) -> bool:
    """Whether the environment has one."""
    return bool(os.environ.get(source.variable))


def environment_kit_passphrase() -> bytes | None:
    """The passphrase of an encrypted kit, if the environment has it. Nobody is asked."""
    return _from_environment(_KIT_VARIABLE)


def kit_passphrase(folder: Path) -> bytes | None:
    """The passphrase of an encrypted kit: from the environment, or typed; None if there is no way to ask."""
    secret = environment_kit_passphrase()
    if secret or not sys.stdin.isatty():
        return secret
    return _typed(f"Passphrase of the key in {folder}")


def _from_environment(variable: str) -> bytes | None:
    """The bytes that stand there; those of a terminal in Latin-1 are no UTF-8."""
    return os.fsencode(os.environ.get(variable, "")) or None


def _ask(words: str, source: Source, *, is_new: bool) -> bytes:
    if not sys.stdin.isatty():
        raise Misuse(
            f"{source.option} asks at a terminal, and there is none", hint=f"{source.option}-file FILE"
        )
    return _verified(_typed(words, twice=is_new), "what was typed")


def _typed(words: str, *, twice: bool = False) -> bytes:
    try:
        typed: str = click.prompt(words, hide_input=True, confirmation_prompt=twice, err=True)
    except UnicodeDecodeError:
        raise Misuse("what was typed is no UTF-8", hint="which encoding has this terminal? locale") from None
    return os.fsencode(typed)


def _read_file(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            secret = opened.read(_LARGEST + 3).removesuffix(b"\n").removesuffix(b"\r")
    except OSError as error:
        raise LocalError(f"{file} cannot be read: {error.strerror}") from error
    return _verified(secret, str(file))


def _verified(secret: bytes, where: str) -> bytes:
    if not secret or b"\n" in secret or len(secret) > _LARGEST:
        raise Misuse(f"{where} does not hold a passphrase: one line of 1 to {_LARGEST} bytes")
    return secret
