"""From a kubeconfig, or the service account of a pod, to an open HTTP session with the API server.

Only this module knows the `kubernetes` package: it reads kubeconfigs, runs exec plugins, refreshes tokens
and prepares TLS.
"""

import asyncio
import logging
import ssl
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

logger = logging.getLogger(__name__)

REFRESH_EVERY_SECONDS = 60
"""How often a token from an exec plugin is looked at; it is renewed five minutes before it expires."""
KEEPALIVE_SECONDS = 60.0
LOAD_SECONDS = 60.0
"""Longest time for reading credentials: an exec plugin may ask a far server."""

UNUSABLE = (OSError, KeyError, TypeError, ValueError, AttributeError)
"""What reading a kubeconfig of a wrong shape, or the files that it names, may raise; ssl.SSLError is an OSError."""


class CredentialsError(ValueError):
    """No way to the API server: `kubeconfig: problem; fix`."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the API server is and how it is spoken to."""

    url: str
    """Without a slash at its end."""
    ssl: ssl.SSLContext | bool
    server_hostname: str | None = None
    """Name in the server's certificate where it is not the URL's."""
    proxy: str | None = None


class Connection:
    """An open session with one API server; close it."""

    def __init__(self, configuration: Configuration) -> None:
        tls = configuration.host.startswith("https")
        self.endpoint = Endpoint(
            url=configuration.host.rstrip("/"),
            ssl=RESTClientObject(configuration).ssl_context if tls else True,
            server_hostname=configuration.tls_server_name,
            proxy=configuration.proxy,
        )
        connector = aiohttp.TCPConnector(limit=0, ssl=self.endpoint.ssl, keepalive_timeout=KEEPALIVE_SECONDS)
        self.session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None), auto_decompress=True
        )
        self._configuration = configuration
        self._refresh: asyncio.Task[None] | None = None

    def keep_token(self, refreshing: Coroutine[object, object, None]) -> None:
        """Run what reads the token again, until this is closed."""
        self._refresh = asyncio.create_task(refreshing, name="refresh the API token")

    async def authorization(self) -> Mapping[str, str]:
        """Return the headers that prove who asks; a token that is about to expire is read again first."""
        token = await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        return {"Authorization": token} if token else {}

    async def close(self) -> None:
        """Close all connections and stop refreshing."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.wait([self._refresh])
        await self.session.close()


async def connect(kubeconfig: Path | None) -> Connection:
    """Return a session: by the given kubeconfig, else by the service account of the pod that this runs in.

    CredentialsError where neither is there or usable. Nothing is sent to the API server yet.
    """
    try:
        async with asyncio.timeout(LOAD_SECONDS):
            return await _from_file(kubeconfig) if kubeconfig is not None else _from_pod()
    except TimeoutError:
        raise CredentialsError(
            f"kubeconfig: no credentials after {LOAD_SECONDS:g} s; run the exec plugin that it names by hand"
        ) from None


async def _from_file(kubeconfig: Path) -> Connection:
    """Return a session by the current context of a file."""
    if not await asyncio.to_thread(kubeconfig.is_file):
        raise CredentialsError(f"kubeconfig: {kubeconfig} is not a file; give the path of one")
    configuration = Configuration()
    try:
        loader = await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=str(kubeconfig), client_configuration=configuration, persist_config=False
        )
        connection = Connection(configuration)
    except (kubernetes_config.ConfigException, yaml.YAMLError, *UNUSABLE) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CredentialsError(
            f"kubeconfig: {kubeconfig}: {reason}; mend it, and try it with `kubectl --kubeconfig`"
        ) from None
    if configuration.api_key:
        connection.keep_token(
            kubernetes_config.refresh_token(loader, configuration, REFRESH_EVERY_SECONDS)  # type: ignore[no-untyped-call]
        )
    elif configuration.host.startswith("https") and configuration.cert_file is None:
        await connection.close()
        raise CredentialsError(
            f"kubeconfig: {kubeconfig}: its user has no token and no certificate, or its exec plugin failed; "
            "try it with `kubectl --kubeconfig`"
        )
    return connection


def _from_pod() -> Connection:
    """Return a session by the service account that Kubernetes mounts into a pod."""
    configuration = Configuration()
    try:
        kubernetes_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except kubernetes_config.ConfigException as error:
        raise CredentialsError(
            f"kubeconfig: none given, and this is no pod with a service account ({str(error).rstrip('.')}); "
            "give one, or mount the service account's token"
        ) from None
    return Connection(configuration)
