"""The files that a load reads: each is read once, and its content is remembered.

In: paths. Out: contents and folder listings, or `UnreadableError` with a reason that a rule author understands. The
content of a path is kept as a fingerprint, also for a missing file, so that `watch` can tell exactly whether anything
has changed since. This is the only file of the package that opens files.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, TypeAlias

MAX_FILE_SIZE: Final = 10_000_000
"""In bytes: some 50,000 rules. A larger file is a mistake, not a rule file, and is refused before it is read."""

MAX_TOTAL_SIZE: Final = 64_000_000
"""In bytes, of all files of one load, with the files that rules name: all are in memory together. It is sixty of the
largest pages, or ten times the size of the largest allowed number of rules (`fields.MAX_ITEMS`)."""

MAX_RULE_FILES: Final = 10_000
"""Of a folder. Each file is opened at every look for changes; a folder with more is probably the wrong folder."""

_NOTHING_LEFT: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

SUFFIXES: Final = (".yaml", ".yml", ".json")
"""The files of a folder that are rule files. Files whose names start with a dot are not: they belong to
editors and mounted ConfigMaps."""

Fingerprint: TypeAlias = str
"""Of the content of a path; equal fingerprints mean equal content."""


class UnreadableError(Exception):
    """A path that cannot be read; the text is the reason, for the author of the rules."""

    fingerprint: Fingerprint = ""
    """Of the content, if only the size of all files together is too large; empty: of the text."""


_MISSING: Final = UnreadableError("does not exist")

Content: TypeAlias = bytes | tuple[str, ...] | UnreadableError
"""The bytes of a file, the names of the rule files of a folder in order, or the reason why there is neither."""


@dataclass(slots=True)
class Files:
    """Reads files for one load and remembers them."""

    contents: dict[Path, Content] = field(default_factory=dict)
    """All that was looked at, by absolute path (symbolic links are not resolved)."""
    folder: Path = Path()
    """Where relative paths begin."""
    kept: bool = False
    """The files no longer exist: only `contents` is used."""
    _size: int = 0

    def read(self, path: Path) -> bytes:
        """The content of a file of at most MAX_FILE_SIZE bytes.

        Raises:
            UnreadableError: it is missing, too large, a folder or may not be read; tell the rule author.
        """
        content = self._look(path)
        if isinstance(content, tuple):
            raise UnreadableError("is a folder")
        if isinstance(content, UnreadableError):
            raise content
        return content

    def listing(self, path: Path) -> list[Path] | None:
        """The rule files of a folder, sorted by name; None if the path is no folder."""
        content = self._look(path)
        return [path / name for name in content] if isinstance(content, tuple) else None

    def check_pem(self, certificate: bytes, key: bytes) -> None:
        """Check that two texts are a certificate chain and its private key.

        If they cannot be checked (no memory, no file descriptors), they pass: Envoy checks them, too.

        Raises:
            UnreadableError: they are not a pair in PEM; tell the author.
        """
        import logging  # noqa: PLC0415 - few rule files have certificates, and these take their time
        import ssl  # noqa: PLC0415

        with contextlib.ExitStack() as stack:
            try:
                chain, private = (stack.enter_context(_as_file(content)) for content in (certificate, key))
            except OSError as error:
                logging.getLogger("rejoinder.files").warning("certificates are not checked: %s", error)
                return
            try:
                # With a password, OpenSSL does not ask at the terminal for the password of an encrypted key.
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, private, password="")
            except (OSError, ValueError) as error:
                if getattr(error, "errno", 0) in _NOTHING_LEFT and not isinstance(error, ssl.SSLError):
                    return
                reason = (isinstance(error, ssl.SSLError) and error.reason) or "no such PEM data"
                reason = reason.lower().replace("_", " ")
                raise UnreadableError(f"not a certificate and its key in PEM: {reason}") from None

    def check_authorities(self, certificates: bytes) -> None:
        """Check that a text has certificates of authorities.

        Raises:
            UnreadableError: it has none in PEM; tell the author.
        """
        import ssl  # noqa: PLC0415

        try:
            text = certificates.decode("ascii", "ignore")  # between certificates, anything may stand
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=text)
        except (OSError, ValueError):
            raise UnreadableError("not certificates in PEM") from None

    def fingerprints(self) -> dict[Path, Fingerprint]:
        """Everything that was read, and must be read again to notice changes."""
        return {path: _fingerprint(content) for path, content in self.contents.items()}

    def place(self, path: Path) -> Path:
        """Its absolute path."""
        return Path(os.path.abspath(self.folder / path))

    def _look(self, path: Path) -> Content:
        place = self.place(path)
        if place not in self.contents:
            self.contents[place] = _MISSING if self.kept else self._bounded(_look(place))
        return self.contents[place]

    def _bounded(self, content: Content) -> Content:
        if not isinstance(content, bytes) or self._size + len(content) <= MAX_TOTAL_SIZE:
            self._size += len(content) if isinstance(content, bytes) else 0
            return content
        error = UnreadableError(f"is too much: all files together may have {MAX_TOTAL_SIZE:,} bytes")
        error.fingerprint = _fingerprint(content)
        return error


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path to some bytes, for `ssl`, which reads files only. In memory where the system can: a key belongs on no
    disk, and a disk may be full."""
    if not os.path.isdir("/proc/self/fd"):
        import tempfile  # noqa: PLC0415

        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
        return
    descriptor = os.memfd_create("rejoinder")
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def fingerprint(path: Path) -> Fingerprint:
    """The present content of a path. Times and inodes are not used: a clock that ticks every few milliseconds misses an
    edit right after a load, and rule files are small enough to be read."""
    return _fingerprint(_look(path))


def _fingerprint(content: Content) -> Fingerprint:
    match content:
        case bytes():
            return hashlib.blake2b(content, digest_size=16).hexdigest()
        case tuple():
            return "/".join(("folder", *content))
        case UnreadableError():
            return content.fingerprint or str(content)


def _look(path: Path) -> Content:
    try:
        # Checked before opening, which may affect a device, and after it, as the file may have been replaced.
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return _rule_files(path)
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb", opener=_at_once) as file:
                status = os.fstat(file.fileno())
                if stat.S_ISREG(status.st_mode):
                    return limited(file, status.st_size)
        return UnreadableError("is not a regular file")
    except FileNotFoundError:
        return _MISSING
    except OSError as error:
        return UnreadableError(f"cannot be read: {error.strerror}")
    except ValueError:
        return UnreadableError("is not a path")


def limited(file: IO[bytes], size: int = 0) -> bytes | UnreadableError:
    """The content of a file, if it is not too large; `size` may be out of date."""
    data = file.read(MAX_FILE_SIZE + 1) if size <= MAX_FILE_SIZE else b""
    size = max(size, len(data))
    if size > MAX_FILE_SIZE:
        return UnreadableError(f"is {size:,} bytes large; the limit is {MAX_FILE_SIZE:,}")
    return data


def _at_once(path: str, flags: int) -> int:
    """Open a file without blocking: a pipe, or some files of /proc, could block for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def _rule_files(folder: Path) -> Content:
    names: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIXES) and not entry.name.startswith(".") and not os.path.isdir(entry):
                names.append(entry.name)
                if len(names) > MAX_RULE_FILES:
                    return UnreadableError(f"has more than {MAX_RULE_FILES:,} rule files")
    return tuple(sorted(names))
