"""TLS of our services: our certificate and the clients' authorities, as they are in the files when a client connects.

In: names of files (`Files`). Out: the contexts of new connections; open connections keep theirs. The files are compared
by content for each connection, so it does not matter how they are replaced. Files that cannot be used, or do not fit
each other because they are just being replaced, change nothing. I/O happens here.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_LOG: Final = logging.getLogger("rejoinder.tls")

Pem = tuple[bytes, bytes, bytes | None]
"""A certificate, its key, and the authorities of clients."""


@dataclass(frozen=True, slots=True)
class Files:
    """PEM."""

    certificate: Path
    """With the intermediate certificates after it."""
    key: Path
    client_ca: Path | None = None
    """Clients must have a certificate of these authorities; None: they need none."""

    def read(self) -> Pem:
        """Raises: OSError."""
        return (
            self.certificate.read_bytes(),
            self.key.read_bytes(),
            self.client_ca.read_bytes() if self.client_ca else None,
        )


class Current:
    """The content of the files, which must be usable at first.

    Args:
        check: raises OSError for what else than OpenSSL cannot use.

    Raises:
        OSError: a file cannot be read, or is not what it should be; the text says which.
    """

    def __init__(self, files: Files, check: Callable[[Pem], None] = lambda _: None) -> None:
        self._files, self._check = files, check
        self._said = ""
        self.pem, self._checked = self._load()

    def refresh(self) -> bool:
        """Read the files; whether there is something new to use."""
        try:
            if self._files.read() == self.pem:
                return False
            self.pem, self._checked = self._load()
        except OSError as error:
            if str(error) != self._said:
                self._said = str(error)
                _LOG.error("%s; what was there before is used on", error)
            return False
        self._said = ""
        _LOG.info("new connections get what is now in %s", self._files.certificate)
        return True

    def context(self) -> ssl.SSLContext:
        """For a new connection; must not be changed."""
        self.refresh()
        return self._checked

    def _load(self) -> tuple[Pem, ssl.SSLContext]:
        files = self._files
        pem = files.read()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(files.certificate, files.key, password=b"")  # otherwise it asks on the terminal
        except (ssl.SSLError, ValueError) as error:
            wanted = f"expected a certificate in {files.certificate} and its key, without a password, in {files.key}"
            raise OSError(f"{wanted} (PEM): {_reason(error)}") from None
        if files.client_ca:
            try:
                context.load_verify_locations(files.client_ca)
            except ssl.SSLError as error:
                raise OSError(f"expected certificates (PEM) in {files.client_ca}: {_reason(error)}") from None
            context.verify_mode = ssl.CERT_REQUIRED
        if files.read() != pem:
            raise OSError(f"{files.certificate} and {files.key} are being replaced")
        self._check(pem)
        return pem, context


class Reloading(ssl.SSLContext):
    """A context for asyncio servers, which call its `wrap_bio` for each connection: that uses the present files.

    Raises:
        OSError: as `Current`.
    """

    _current: Current
    _protocols: Sequence[str] = ()
    _required: bool

    def __new__(cls, files: Files, *, required: bool = True) -> Reloading:
        """Args: required: with a `client_ca`, clients must have a certificate; otherwise they may have one."""
        made = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        made._current, made._required = Current(files), required
        return made

    def __init__(self, files: Files, *, required: bool = True) -> None:
        """As `__new__`."""

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        self._protocols = alpn_protocols

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        context = self._current.context()
        if self._protocols:
            context.set_alpn_protocols(self._protocols)
        if context.verify_mode is ssl.CERT_REQUIRED and not self._required:
            context.verify_mode = ssl.CERT_OPTIONAL
        return context.wrap_bio(*arguments, **named)


def why(error: ssl.SSLError) -> str:
    """OpenSSL's reason, in lower case: `peer did not return a certificate`."""
    verified = getattr(error, "verify_message", "")
    return _reason(error).replace("_", " ").lower() + (f": {verified}" if verified else "")


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
