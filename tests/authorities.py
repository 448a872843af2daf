"""Certificate authorities for tests, and folders with certificates as Kubernetes mounts them."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

_NUMBERS = itertools.count()


class Authority:
    """One that signs."""

    def __init__(self, folder: Path) -> None:
        self.name = f"authority{next(_NUMBERS)}"
        self._folder = folder
        self.certificate, self._key = _made(folder, self.name, "basicConstraints=critical,CA:TRUE")

    def sign(self, name: str) -> tuple[Path, Path]:
        """A certificate for localhost and 127.0.0.1, and its key; each time another one."""
        names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
        signed = ("-CA", str(self.certificate), "-CAkey", str(self._key))
        return _made(self._folder, f"{name}{next(_NUMBERS)}", names, *signed)


def _made(folder: Path, name: str, extension: str, *more: str) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1"
    words = ["-subj", f"/CN={name}", "-addext", extension, *more, "-out", str(certificate), "-keyout", str(key)]
    if more:
        words += ["-addext", "basicConstraints=CA:FALSE"]
    subprocess.run([*command.split(), *words], check=True, capture_output=True)
    return certificate, key


class Mount:
    """A mounted Secret: `tls.crt`, `tls.key` and `ca.crt` are links through `..data`, a link that `replace` renames."""

    def __init__(self, folder: Path, authority: Authority, trusted: Authority) -> None:
        self.folder = folder
        folder.mkdir()
        self.certificate, self.key, self.ca = (folder / name for name in ("tls.crt", "tls.key", "ca.crt"))
        self.replace(authority, trusted)
        for path in (self.certificate, self.key, self.ca):
            path.symlink_to(f"..data/{path.name}")

    def replace(self, authority: Authority, *trusted: Authority) -> None:
        """Put another certificate there, by that authority, and those that are trusted."""
        data = self.folder / f"..{next(_NUMBERS)}"
        data.mkdir()
        for path, content in zip((self.certificate, self.key), authority.sign(self.folder.name), strict=True):
            (data / path.name).write_bytes(content.read_bytes())
        (data / self.ca.name).write_text("".join(authority.certificate.read_text() for authority in trusted))
        link = self.folder / "..data_tmp"
        link.symlink_to(data.name)
        link.rename(self.folder / "..data")
