"""What the container tells the master about itself: environment variables, parsed once."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from tandem_api.engine import JobConfig
from tandem_api.registry import Keys
from tandem_checkpoint.registry.credentials import NOBODY, EtcdCredentials, read_credentials
from tandem_checkpoint.registry.errors import CredentialsError
from tandem_checkpoint.tls import TlsError, TlsFiles, Trust, read_tls, service_name
from tandem_master.errors import SettingsError
from tandem_master.metrics_server import metrics_port


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the master knows before it looks around."""

    job: JobConfig
    token: str = field(repr=False)
    """Bearer token of the job's HTTP APIs."""
    etcd_endpoints: tuple[str, ...]
    """`host:port` of the registry."""
    state: Path
    """Durable folder of the job."""
    pod: str
    """Pod that the master runs in."""
    address: str
    """Address of that pod."""
    attempt: int = 0
    """How often all pods of the job had been started anew before this one."""
    tls: TlsFiles | None = None
    """Certificates of the job's HTTP APIs; None: they are spoken to in the clear."""
    etcd_credentials: EtcdCredentials = NOBODY
    """Who we are to etcd."""
    metrics_port: int | None = None
    """Port of the master's metrics on its address; None: nobody gets them."""

    @property
    def keys(self) -> Keys:
        return Keys(namespace=self.job.namespace, job=self.job.name)

    @property
    def trust(self) -> Trust | None:
        """Return what believes the job's pods; None where they are spoken to in the clear."""
        return None if self.tls is None else self.tls.trust(service_name(self.job.namespace, self.job.name))

    @property
    def server_context(self) -> ssl.SSLContext | None:
        """Return what shows this pod's certificate; None where pods are spoken to in the clear."""
        if self.tls is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.tls.cert, self.tls.key)
        return context


def parse_settings(environment: Mapping[str, str]) -> Settings:
    """Return the settings that `environment` names. Errors: SettingsError, one line each."""
    endpoints = tuple(part.strip() for part in _variable(environment, "TANDEM_ETCD").split(",") if part.strip())
    token = _content(environment, "TANDEM_TOKEN_FILE").strip()
    if not token:
        raise SettingsError("TANDEM_TOKEN_FILE: the file is empty; it must hold the job's token")
    try:
        tls, credentials = read_tls(environment), read_credentials(environment)
    except (TlsError, CredentialsError) as error:
        raise SettingsError(str(error)) from None
    return Settings(
        job=_job(environment),
        token=token,
        etcd_endpoints=endpoints,
        state=Path(_variable(environment, "TANDEM_STATE")),
        pod=_variable(environment, "POD_NAME"),
        address=_variable(environment, "POD_IP"),
        attempt=int(attempt) if (attempt := environment.get("TANDEM_ATTEMPT", "")).isdecimal() else 0,
        tls=tls,
        etcd_credentials=credentials,
        metrics_port=metrics_port(environment),
    )


def _job(environment: Mapping[str, str]) -> JobConfig:
    try:
        return JobConfig.model_validate_json(_content(environment, "TANDEM_CONFIG"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SettingsError(f"TANDEM_CONFIG: {where}: {first['msg']}") from error


def _content(environment: Mapping[str, str], name: str) -> str:
    path = _variable(environment, name)
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{name}: {path} cannot be read ({error.strerror}); mount the job's file there") from error


def _variable(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise SettingsError(f"{name}: not set; the pod's container must define it")
    return value
