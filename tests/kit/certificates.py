"""Certificates of a test's own authority, made with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

#: Good for the address that tests use, and for no other.
_EXTENSION = "subjectAltName=IP:127.0.0.1"


def make_certificates(folder: Path) -> None:
    """Make an authority (``ca.pem``), a server's key and certificate by it, and ``other``, which nobody vouches for."""
    subject = ["-subj", "/CN=celery-gconc test", "-days", "2"]
    key = ["-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    signed = ["-CA", str(folder / "ca.pem"), "-CAkey", str(folder / "ca.key")]
    for name, options in (
        ("ca", ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]),
        ("server", ["-addext", _EXTENSION, *signed]),
        ("other", ["-addext", _EXTENSION]),
    ):
        files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        subprocess.run(["openssl", "req", "-x509", *subject, *key, *options, *files], check=True, capture_output=True)
