"""One token joins a cluster: every node derives the same TLS certificate from it.

Theory of operation
-------------------
distributed checks certificates, not tokens. So the token is the seed of an Ed25519 key, and the
key signs a certificate whose fields are all fixed: Ed25519 signatures are deterministic, hence
every machine that knows the token derives the same bytes. That certificate is at once the one a
node shows and the only authority it trusts; who does not know the token cannot finish the TLS
handshake in either direction, and distributed reads no frame before the handshake is done.

Whoever connects sees the certificate, hence the public key, and could test guesses of the token
against it at leisure. So tokens are made of 256 random bits, and short ones are refused.

Deriving needs `cryptography`, whose import costs more than all the rest: the result is kept
in ``<home>/credentials/<fingerprint>.pem`` (0600), and later starts just read it. ``<home>`` is
``$RACT_HOME`` or ``~/.ract``.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ract.core.errors import AuthenticationError

TOKEN_BYTES_MAX = 4096
"""A token file larger than this is some other file."""
TOKEN_CHARACTERS_MIN = 16
"""Shorter tokens can be guessed offline by anybody who connects once."""

RETRY_S = 0.1
"""Between two tries to reach a scheduler."""

_CERT_BEGIN = "-----BEGIN CERTIFICATE-----"
_KEY_BEGIN = "-----BEGIN PRIVATE KEY-----"


class TokenError(RuntimeError):
    """There is no usable join token: the message says where it was looked for and what to do."""


def home() -> Path:
    """The folder of this user's token and credentials: ``$RACT_HOME``, else ``~/.ract``."""
    given = os.environ.get("RACT_HOME")
    return Path(given) if given else Path.home() / ".ract"


def load_or_create_token(token_file: str | os.PathLike[str] | None = None) -> str:
    """Return the join token, made on first use.

    The first of these counts: ``token_file``, ``$RACT_TOKEN``, ``<home>/token``. A file that does
    not exist is created with a new token, readable by this user only; of several processes that
    create it at once, one wins and all return its token.

    Raises:
        TokenError: the token is too short, or the file can be read by others, is not this user's,
            or cannot be read or created.
    """
    if token_file is None and (given := os.environ.get("RACT_TOKEN")) is not None:
        return _checked(given, "$RACT_TOKEN")
    path = home() / "token" if token_file is None else Path(token_file).expanduser()
    try:
        try:
            return _read_token(path)
        except FileNotFoundError:
            _create_once(path, secrets.token_urlsafe(32) + "\n")
            return _read_token(path)
    except OSError as error:
        raise TokenError(f"cannot read or create the token file {path}: {error}") from error


def load_token(token_file: str | os.PathLike[str] | None = None) -> str:
    """Return the join token, for whoever joins a cluster: a missing file is an error.

    Raises:
        TokenError: as for `load_or_create_token`, and if there is no token at all.
    """
    if token_file is None and "RACT_TOKEN" in os.environ:
        return load_or_create_token()
    path = home() / "token" if token_file is None else Path(token_file).expanduser()
    try:
        return _read_token(path)
    except FileNotFoundError:
        raise TokenError(
            f"no join token: {path} does not exist. Copy the token that rscheduler printed into "
            "that file (mode 0600), or set RACT_TOKEN, or name its file with --token-file"
        ) from None
    except OSError as error:
        raise TokenError(f"cannot read the token file {path}: {error}") from error


def fingerprint(token: str) -> str:
    """16 hex digits that identify a token without giving it away."""
    return hashlib.sha256(b"ract-fingerprint:" + token.encode()).hexdigest()[:16]


def credentials(token: str) -> tuple[str, str]:
    """The certificate and the private key of the cluster, as PEM text.

    The same token gives the same bytes everywhere and always.

    Raises:
        TokenError: the token is too short.
    """
    token = _checked(token, "the token")
    cache = home() / "credentials" / f"{fingerprint(token)}.pem"
    kept = _read_cache(cache)
    if kept is not None:
        return kept
    certificate, key = _derive(token)
    try:
        _replace(cache, certificate + key)
    except OSError:
        pass  # a read-only home: derive again next time
    return certificate, key


def security_config(token: str) -> dict[str, Any]:
    """Dask configuration that makes every comm of distributed mutually authenticated TLS.

    After ``dask.config.set(security_config(token))`` plain ``Scheduler(protocol="tls://")``,
    ``Worker`` and ``Client`` find each other, and nobody else does.
    """
    certificate, key = credentials(token)
    return {
        "distributed.comm.require-encryption": True,
        "distributed.comm.tls.ca-file": certificate,
        # 1.3 sends certificates encrypted, and every supported Python has it
        "distributed.comm.tls.min-version": 1.3,
        **{
            f"distributed.comm.tls.{role}.{item}": text
            for role in ("scheduler", "worker", "client")
            for item, text in (("cert", certificate), ("key", key))
        },
    }


def full_address(given: str) -> str:
    """A scheduler's address with its scheme: ``host:port`` is ``tls://host:port``.

    Raises:
        ValueError: it has no port, or a scheme that ract does not speak.
    """
    address = given if "://" in given else f"tls://{given}"
    parts = urlsplit(address)
    try:
        is_complete = bool(parts.hostname and parts.port)
    except ValueError:  # the port is no number
        is_complete = False
    if parts.scheme not in ("tls", "tcp") or not is_complete:
        raise ValueError(f"{given!r} is not the address of a scheduler: tls://host:port is needed")
    return address


def check_peer(address: str, token: str, timeout: float) -> None:
    """Wait until a scheduler listens at ``address``, and make sure that it has the same token.

    distributed takes a failed handshake for a network problem, and tries again for ever.

    Args:
        address: ``tls://host:port`` or ``tcp://host:port``.
        token: The join token of this process; not used for tcp.
        timeout: How long to try, in seconds.

    Raises:
        AuthenticationError: it has another token, or does not speak TLS.
        ConnectionError: nobody listens there.
    """
    import socket
    import ssl

    context = None
    if address.startswith("tls://"):
        certificate, _ = credentials(token)
        context = ssl.create_default_context(cadata=certificate)
        context.check_hostname = False
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    parts = urlsplit(address)
    deadline = time.monotonic() + timeout
    while True:
        try:
            with socket.create_connection((parts.hostname, parts.port), timeout) as sock:
                if context is not None:
                    context.wrap_socket(sock).close()
            return
        except ssl.SSLCertVerificationError as error:
            raise AuthenticationError(
                f"the scheduler at {address} was started with another join token. Give its own: "
                "--token-file, token_file or RACT_TOKEN"
            ) from error
        except ssl.SSLError as error:
            raise AuthenticationError(
                f"who listens at {address} does not speak TLS 1.3 ({error.reason}): is it a "
                "scheduler of ract? Without encryption it would be tcp://"
            ) from error
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConnectionError(
                    f"no scheduler could be reached at {address} within {timeout:g} s: {error}"
                ) from error
        time.sleep(RETRY_S)


# --------------------------------------------------------------------------- files


def _checked(token: str, where: str) -> str:
    token = token.strip()
    if len(token) < TOKEN_CHARACTERS_MIN:
        raise TokenError(
            f"{where} has {len(token)} characters and needs {TOKEN_CHARACTERS_MIN}: whoever can "
            'connect could guess it. Make one with python -c "import secrets; '
            'print(secrets.token_urlsafe(32))"'
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise TokenError(f"{where} may hold printable ASCII characters without spaces only")
    return token


def _read_private(path: Path, bytes_max: int) -> str:
    """The text of a file that only this user (or root) can have written or read."""
    # Checked on the open file, so that nobody can swap it between the check and the read.
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise TokenError(f"{path} is not a regular file")
        if found.st_uid not in (os.geteuid(), 0):
            raise TokenError(f"{path} belongs to another user (uid {found.st_uid})")
        if found.st_mode & 0o077:
            raise TokenError(
                f"{path} can be read or written by others (mode {stat.S_IMODE(found.st_mode):04o}),"
                f" so its secret is not one; make a new one, or: chmod 600 {path}"
            )
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise TokenError(f"{path} is larger than {bytes_max} bytes")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise TokenError(f"{path} is not a text file") from None


def _read_token(path: Path) -> str:
    return _checked(_read_private(path, TOKEN_BYTES_MAX), str(path))


def _write_private(path: Path, text: str) -> Path:
    """Write a new file beside ``path``, 0600 from the start, and return its name."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        beside.unlink()
        raise
    return beside


def _create_once(path: Path, text: str) -> None:
    """Create ``path`` complete, unless somebody else just did."""
    beside = _write_private(path, text)
    try:
        os.link(beside, path)  # unlike a rename, it fails if the name is taken
    except FileExistsError:
        pass
    finally:
        beside.unlink()


def _replace(path: Path, text: str) -> None:
    beside = _write_private(path, text)
    try:
        os.replace(beside, path)
    except BaseException:
        beside.unlink()
        raise


def _read_cache(path: Path) -> tuple[str, str] | None:
    """The certificate and key kept in ``path``, or None if it does not hold exactly those."""
    try:
        text = _read_private(path, 64 * 1024)
    except (OSError, TokenError):
        return None
    certificate, begin, key = text.partition(_KEY_BEGIN)
    if not certificate.startswith(_CERT_BEGIN) or not begin or "-----END PRIVATE" not in key:
        return None
    return certificate, begin + key


# --------------------------------------------------------------------------- derivation


def _derive(token: str) -> tuple[str, str]:
    # Imported here: it costs 50 ms and is needed once per token and machine.
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    seed = hashlib.sha256(b"ract-tls-key:" + token.encode()).digest()
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public = key.public_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"ract-{fingerprint(token)}")])
    serial = hashlib.sha256(b"ract-tls-serial:" + token.encode()).digest()[:16]
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,  # it is its own authority
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    # Extensions: what strict RFC 5280 checks demand (the default from Python 3.13 on).
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(int.from_bytes(serial, "big") >> 1 | 1)
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2120, 1, 1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, algorithm=None)
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"),
        key_pem.decode("ascii"),
    )
