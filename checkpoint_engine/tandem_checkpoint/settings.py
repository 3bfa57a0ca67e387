"""What an engine is told by its container: environment variables, parsed once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from tandem_api.engine import JobConfig
from tandem_api.registry import Keys, Scheme
from tandem_checkpoint.registry.credentials import NOBODY, EtcdCredentials, read_credentials
from tandem_checkpoint.registry.errors import CredentialsError
from tandem_checkpoint.tls import TlsError, TlsFiles, Trust, read_tls, service_name

DEVICE_VARIABLE = "TANDEM_DEVICE"
"""Overrides the device of the job's configuration, where a claim gives something else than CUDA devices."""
TOKEN_VARIABLE = "TANDEM_TOKEN_FILE"
DEVICES = ("cpu", "cuda")
TRANSPORT_VARIABLE = "TANDEM_WEIGHTS_TRANSPORT"
"""How pods get each other's weights: `http`, or `mooncake` where it can be loaded."""
TRANSPORTS = ("http", "mooncake")


class SettingsError(Exception):
    """The container was set up wrongly."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The contract between the planner's containers and the engine."""

    config: JobConfig
    token: str = field(repr=False)
    """Bearer token of the job's HTTP APIs; empty where there is none, which only loopback allows."""
    etcd: tuple[str, ...]
    pod: str
    address: str
    shared: Path
    """Folder that both containers of the pod see, in memory."""
    state: Path | None
    """Durable folder of the job: trainers only."""
    attempt: int = 0
    """How often all pods of the job had been started anew before this one."""
    tls: TlsFiles | None = None
    """Certificates of the job's HTTP APIs; None: they are spoken to in the clear."""
    etcd_credentials: EtcdCredentials = NOBODY
    """Who we are to etcd."""
    wants_mooncake: bool = False
    """Whether weights shall cross pods by one-sided reads. Mooncake's ports ask nobody who they are."""

    @property
    def scheme(self) -> Scheme:
        """Return how this pod's HTTP APIs are spoken to."""
        return "http" if self.tls is None else "https"

    @property
    def trust(self) -> Trust | None:
        """Return what believes the job's other pods; None where they are spoken to in the clear."""
        return None if self.tls is None else self.tls.trust(service_name(self.config.namespace, self.config.name))

    @property
    def keys(self) -> Keys:
        return Keys(self.config.namespace, self.config.name)

    @property
    def is_hybrid(self) -> bool:
        """Whether a trainer shares this pod; in the job's other pods servers are alone."""
        return self.pod in self.config.hybrid_pods

    @classmethod
    def from_environment(cls) -> Self:
        """Read the environment; raise SettingsError naming the variable that is missing or the file that is wrong."""
        state = os.environ.get("TANDEM_STATE")
        address = _variable("POD_IP")
        try:
            tls, credentials = read_tls(os.environ), read_credentials(os.environ)
        except (TlsError, CredentialsError) as error:
            raise SettingsError(str(error)) from None
        return cls(
            config=read_job_config(),
            token=_token(address),
            etcd=tuple(_variable("TANDEM_ETCD").split(",")),
            pod=_variable("POD_NAME"),
            address=address,
            shared=Path(_variable("TANDEM_SHARED")),
            state=Path(state) if state else None,
            attempt=int(attempt) if (attempt := os.environ.get("TANDEM_ATTEMPT", "")).isdecimal() else 0,
            tls=tls,
            etcd_credentials=credentials,
            wants_mooncake=wants_mooncake(os.environ, is_private=tls is not None),
        )


def read_job_config() -> JobConfig:
    """Return the job's configuration with the device that the environment names, if any; raise SettingsError."""
    config = _job_config(_content("TANDEM_CONFIG"))
    device = os.environ.get(DEVICE_VARIABLE)
    if device is None:
        return config
    if device not in DEVICES:
        raise SettingsError(f"{DEVICE_VARIABLE}: is {device!r}; use {' or '.join(DEVICES)}, or leave it unset")
    return config.model_copy(update={"device": device})


def is_loopback(address: str) -> bool:
    """Tell whether only this machine reaches an address; a name is taken for one that others reach."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def require_token(address: str, token: str) -> None:
    """Raise SettingsError where APIs without a token would be reached by others."""
    if not token and not is_loopback(address):
        raise SettingsError(
            f"{TOKEN_VARIABLE}: holds no token, but others reach {address}; mount the job's Secret there"
        )


def wants_mooncake(environment: Mapping[str, str], *, is_private: bool) -> bool:
    """Tell whether weights shall cross pods by Mooncake; SettingsError where they would then be sent in the clear.

    `is_private`: whether the job's APIs speak TLS.
    """
    transport = environment.get(TRANSPORT_VARIABLE, "http")
    if transport not in TRANSPORTS:
        raise SettingsError(f"{TRANSPORT_VARIABLE}: is {transport!r}; use {' or '.join(TRANSPORTS)}, or leave it unset")
    if transport == "mooncake" and is_private:
        raise SettingsError(
            f"{TRANSPORT_VARIABLE}: Mooncake sends weights in the clear, and this job's APIs speak TLS; leave it unset"
        )
    return transport == "mooncake"


def _token(address: str) -> str:
    """Return the job's token; on loopback there may be none."""
    if is_loopback(address) and not os.environ.get(TOKEN_VARIABLE):
        return ""
    token = _content(TOKEN_VARIABLE).strip()
    require_token(address, token)
    return token


def _variable(name: str) -> str:
    try:
        return os.environ[name]
    except KeyError:
        raise SettingsError(f"{name}: is not set; start the engine by the planner's pods") from None


def _content(name: str) -> str:
    """Return what stands in the file that a variable names."""
    path = Path(_variable(name))
    try:
        return path.read_text()
    except OSError as error:
        raise SettingsError(f"{name}: {path} cannot be read ({error.strerror}); mount the job's volume there") from None


def _job_config(raw: str) -> JobConfig:
    try:
        return JobConfig.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"]) or "the file"
        raise SettingsError(
            f"TANDEM_CONFIG: {place}: {first['msg']}; are operator and engine of the same version?"
        ) from None
