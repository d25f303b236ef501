"""A certificate authority that lives as long as a test, made with the `openssl` command."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Certificate:
    ca: Path  # what clients must trust: SSL_CERT_FILE
    chain: Path
    key: Path


def openssl(*arguments, stdin=None):
    """Runs `openssl` and returns what it wrote, as bytes."""
    done = subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True)
    assert done.returncode == 0, f"openssl {arguments[0]}: {done.stderr.decode(errors='replace')}"
    return done.stdout


def make_certificate(folder):
    """A certificate for 127.0.0.1 and localhost by an authority of its own. rustls and Python accept both."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ca, ca_key, chain, key, request, extensions = (
        folder / name for name in ("ca.pem", "ca.key", "server.pem", "server.key", "server.csr", "server.ext"))
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *curve, "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", "/CN=tenant-init tests",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl("req", *curve, "-keyout", key, "-out", request, "-subj", "/CN=localhost")
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n"
                          "keyUsage=digitalSignature\nextendedKeyUsage=serverAuth\n")
    openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2",
            "-extfile", extensions, "-out", chain)
    return Certificate(ca, chain, key)
