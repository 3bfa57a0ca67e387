"""Keys of one cluster: made anew for each run, worth nothing afterwards."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

VALID = timedelta(days=2)
SERVICE_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")


@dataclass(frozen=True, slots=True)
class ClusterKeys:
    """Files of one cluster's keys and its administrator's token."""

    ca_certificate: Path
    ca_key: Path
    server_certificate: Path
    server_key: Path
    service_account_key: Path
    token_file: Path
    token: str


def keys_in(folder: Path) -> ClusterKeys:
    """Return the keys that `make_keys` wrote to a folder."""
    return ClusterKeys(
        ca_certificate=folder / "ca.crt",
        ca_key=folder / "ca.key",
        server_certificate=folder / "api.crt",
        server_key=folder / "api.key",
        service_account_key=folder / "service-accounts.key",
        token_file=folder / "tokens.csv",
        token=(folder / "tokens.csv").read_text().split(",")[0],
    )


def make_keys(folder: Path, addresses: Sequence[str]) -> ClusterKeys:
    """Write an authority, a certificate of the API server for `addresses`, a service-account key and a token."""
    folder.mkdir(mode=0o700, parents=True)
    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    names = [x509.DNSName(name) for name in (*SERVICE_NAMES, "localhost")]
    hosts = x509.SubjectAlternativeName([*names, *(x509.IPAddress(ip_address(each)) for each in addresses)])
    signed_authority = _certificate(
        "tandem-ground", authority, authority, x509.BasicConstraints(ca=True, path_length=0)
    )
    signed_server = _certificate("kube-apiserver", server, authority, hosts)
    tokens = folder / "tokens.csv"
    tokens.touch(mode=0o600)
    tokens.write_text(f'{secrets.token_hex(16)},admin,admin,"system:masters"\n')
    keys = keys_in(folder)
    keys.ca_certificate.write_bytes(signed_authority.public_bytes(Encoding.PEM))
    keys.server_certificate.write_bytes(signed_server.public_bytes(Encoding.PEM))
    _write_key(keys.ca_key, authority)
    _write_key(keys.server_key, server)
    _write_key(keys.service_account_key, ec.generate_private_key(ec.SECP256R1()))
    return keys


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
) -> x509.Certificate:
    now = datetime.now(UTC)
    is_authority = isinstance(extension, x509.BasicConstraints)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name("tandem-ground"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + VALID)
        .add_extension(extension, critical=is_authority)
        .add_extension(key_usage(is_authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
    )
    return builder.sign(issuer, SHA256())


def key_usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
