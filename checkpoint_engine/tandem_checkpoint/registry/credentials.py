"""Who we are to etcd: a user with a password, a client certificate, or nobody in particular."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tandem_checkpoint.registry.errors import CredentialsError

CREDENTIALS = "TANDEM_ETCD_CREDENTIALS"
"""Folder with files of the names that Kubernetes gives them in Secrets; each of the variables below goes before it."""
USER = "TANDEM_ETCD_USER"
PASSWORD_FILE = "TANDEM_ETCD_PASSWORD_FILE"
CA = "TANDEM_ETCD_CA"
CERT = "TANDEM_ETCD_CERT"
KEY = "TANDEM_ETCD_KEY"
USER_FILE = "username"
FILES = {PASSWORD_FILE: "password", CA: "ca.crt", CERT: "tls.crt", KEY: "tls.key"}
"""Files of the folder by the variable that they stand for."""


@dataclass(frozen=True, slots=True)
class EtcdCredentials:
    """Files, not their contents: they are read when a connection is made, and a password at every login."""

    user: str | None = None
    password_file: Path | None = None
    ca: Path | None = None
    """Certificate of the authority that etcd's own certificate must come from; None: no TLS."""
    cert: Path | None = None
    """Client certificate; etcd takes its common name for the user."""
    key: Path | None = None

    def password(self) -> str:
        """Return the password as it stands in its file now. Errors: CredentialsError."""
        assert self.password_file is not None
        return _content(PASSWORD_FILE, self.password_file).decode().strip()

    def tls(self) -> tuple[bytes, bytes | None, bytes | None] | None:
        """Return authority, key and certificate as PEM; None where etcd is spoken to in the clear.

        Errors: CredentialsError.
        """
        if self.ca is None:
            return None
        key = None if self.key is None else _content(KEY, self.key)
        cert = None if self.cert is None else _content(CERT, self.cert)
        return _content(CA, self.ca), key, cert


NOBODY = EtcdCredentials()
"""No user and no TLS: an etcd on loopback."""


def read_credentials(environment: Mapping[str, str]) -> EtcdCredentials:
    """Return who we are by the environment; raise CredentialsError where it says half of it or a file is not there."""
    given = {name: environment[name] for name in (USER, *FILES) if environment.get(name)}
    named = _in_folder(Path(environment[CREDENTIALS])) | given if environment.get(CREDENTIALS) else given
    _refuse_halves(named)
    paths = {name: Path(value) for name, value in named.items() if name != USER}
    credentials = EtcdCredentials(
        named.get(USER), paths.get(PASSWORD_FILE), paths.get(CA), paths.get(CERT), paths.get(KEY)
    )
    if credentials.password_file is not None and not credentials.password():
        raise CredentialsError(f"{PASSWORD_FILE}: {credentials.password_file} is empty; write the password into it")
    credentials.tls()
    return credentials


def _in_folder(folder: Path) -> dict[str, str]:
    """Return what the files of a folder say, by the variables that they stand for."""
    found = {name: str(folder / file) for name, file in FILES.items() if (folder / file).is_file()}
    if (folder / USER_FILE).is_file():
        found[USER] = _content(CREDENTIALS, folder / USER_FILE).decode().strip()
    if not found:
        names = ", ".join((USER_FILE, *FILES.values()))
        raise CredentialsError(f"{CREDENTIALS}: {folder} has none of {names}; mount the Secret of etcd there")
    return found


def _refuse_halves(named: Mapping[str, str]) -> None:
    """Refuse one of a pair without the other."""
    for pair in ((USER, PASSWORD_FILE), (CERT, KEY)):
        there = [name for name in pair if named.get(name)]
        missing = [name for name in pair if not named.get(name)]
        if there and missing:
            raise CredentialsError(f"{there[0]}: is set without {missing[0]}; set both or neither")
    if CERT in named and CA not in named:
        raise CredentialsError(f"{CERT}: is set without {CA}; name the authority's certificate too")


def _content(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CredentialsError(f"{name}: {path} cannot be read ({error.strerror}); mount the Secret there") from None
