"""Certificates of a job's HTTP APIs: who we are, and whom we believe."""

import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

CERT = "TANDEM_TLS_CERT"
KEY = "TANDEM_TLS_KEY"
CA = "TANDEM_TLS_CA"


class TlsError(Exception):
    """The variables or files of the certificates are wrong: one line, with the variable and the fix."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What a client needs: pods are reached by their addresses, so all of them show a certificate for one name."""

    context: ssl.SSLContext
    name: str
    """Host name that a pod's certificate must hold for."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Certificate, key and authority of a job, as files."""

    cert: Path
    key: Path
    ca: Path

    def trust(self, name: str) -> Trust:
        """Return what believes servers of this authority that show a certificate for `name`."""
        return Trust(ssl.create_default_context(cafile=self.ca), name)

    def stamp(self) -> tuple[float, ...]:
        """Return what changes when a server's files do; nothing where they are not there now."""
        try:
            return tuple(path.stat().st_mtime for path in (self.cert, self.key))
        except OSError:
            return ()

    def load_into(self, context: ssl.SSLContext) -> bool:
        """Take the certificate over into a server's context; tell whether it could be, and log where not."""
        try:
            # Tried elsewhere first: of a pair that does not fit, the certificate alone would be taken over.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert, self.key)
            context.load_cert_chain(self.cert, self.key)
        except OSError as error:  # ssl.SSLError is one too: half of a pair has been written so far
            logger.warning("the changed certificate %s is not taken over: %s", self.cert, error)
            return False
        logger.info("the changed certificate %s is taken over", self.cert)
        return True


def read_tls(environment: Mapping[str, str]) -> TlsFiles | None:
    """Return the certificates that the environment names, None where it names none. Errors: TlsError."""
    given = {name: Path(environment[name]) for name in (CERT, KEY, CA) if environment.get(name)}
    if not given:
        return None
    missing = [name for name in (CERT, KEY, CA) if name not in given]
    if missing:
        raise TlsError(f"{missing[0]}: is not set, but {next(iter(given))} is; set {CERT}, {KEY} and {CA}, or none")
    files = TlsFiles(given[CERT], given[KEY], given[CA])
    _try(f"{CERT}, {KEY}", lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.cert, files.key))
    _try(CA, lambda: ssl.create_default_context(cafile=files.ca))
    return files


def service_name(namespace: str, job: str) -> str:
    """Return the name that the certificate of a job's pods must hold for: that of the job's Service."""
    return f"{job}.{namespace}.svc"


def _try(names: str, load: Callable[[], object]) -> None:
    """Refuse files that are not there or are no certificates."""
    try:
        load()
    except OSError as error:  # ssl.SSLError is one too
        raise TlsError(f"{names}: cannot be used ({error.strerror or error}); mount the TLS Secret there") from None
