"""A consortium's certificates and keys: an authority, the server's certificate, sites' key pairs.

The server proves itself by a certificate (X.509, RFC 5280) of the consortium's own authority, which
is all that a site trusts. A site proves itself by a key pair on P-384, whose public half the server
knows: Flower's SuperNode authentication.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.errors import UserError

AUTHORITY_DAYS = 3650
PRIVATE, PUBLIC = 0o600, 0o644


def make_authority(key_file: Path, certificate_file: Path, consortium: str) -> None:
    """Write a new certificate authority; its key signs nothing but the server's certificates."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name(f"Wardround {consortium} authority")
    certificate = (
        _certificate(name, name, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    write_file(key_file, _pem(key), PRIVATE)
    write_file(certificate_file, certificate.public_bytes(serialization.Encoding.PEM), PUBLIC)


def make_server_certificate(
    authority: Path, key_file: Path, certificate_file: Path, hosts: Sequence[str], days: int
) -> datetime:
    """Write a new key and certificate of the server.

    Args:
        authority: the folder that holds ``ca.key`` and ``ca.crt``.
        key_file: the private key, PKCS#8 in PEM.
        certificate_file: the certificate in PEM.
        hosts: DNS names and IP addresses under which it is valid (subject alternative names).
        days: for how long.

    Returns:
        When it ends.

    Raises:
        UserError: if the authority's key or certificate cannot be read.
    """
    issuer_key, issuer = _read_authority(authority)
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = (
        _certificate(_name(hosts[0][:64]), issuer.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.SubjectAlternativeName(list(map(_general, hosts))), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA384())
    )
    write_file(key_file, _pem(key), PRIVATE)
    write_file(certificate_file, certificate.public_bytes(serialization.Encoding.PEM), PUBLIC)
    return certificate.not_valid_after_utc


def server_names(certificate_file: Path) -> tuple[set[str], datetime]:
    """Return the names that a server's certificate is valid for, and until when.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        raise UserError(certificate_file, "not a server's certificate in PEM") from None
    return {str(name.value) for name in names}, certificate.not_valid_after_utc


def make_site_key(private_file: Path, public_file: Path, comment: str) -> None:
    """Write a site's key pair, as ``ssh-keygen -t ecdsa`` does, in place of what is there."""
    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    write_file(private_file, private, PRIVATE)
    write_file(public_file, public + f" {comment}\n".encode(), PUBLIC)


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Write a file whole under its name; nobody else could read it for a moment before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.chmod(mode)  # whatever the umask
    draft.replace(path)


def _read_authority(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    file = folder / "ca.key"
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), password=None)
        certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(
            file,
            "the authority's key or certificate cannot be read",
            remedy="Put the consortium's authority folder back from where you keep it.",
        )
    return key, certificate


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # a site's clock may be behind
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.rstrip("."))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
