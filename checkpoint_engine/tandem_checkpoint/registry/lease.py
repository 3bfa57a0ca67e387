"""A lease on a real etcd that renews itself."""

import asyncio
import logging
from contextlib import suppress
from time import monotonic

import grpc.aio  # type: ignore[import-untyped]
from etcd3aio import EtcdError
from etcd3aio._protobuf import LeaseKeepAliveResponse

from tandem_checkpoint.registry.connection import EtcdConnection, words
from tandem_checkpoint.registry.errors import RegistryError, RegistryUnreachable

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.2
"""Pause after a renewal that got no answer."""


class EtcdLease:
    """See Lease."""

    def __init__(self, connection: EtcdConnection, lease_id: int, seconds: int) -> None:
        self._connection = connection
        self._id = lease_id
        self._seconds = seconds
        self._renewed_at = monotonic()
        self._expired = False
        self._revoked = False
        self._missed = False
        """Whether the last renewal got no answer; the first of a row alone is worth a warning."""

    @property
    def id(self) -> int:
        return self._id

    @property
    def alive(self) -> bool:
        return not self._expired and monotonic() - self._renewed_at < self._seconds

    async def renew(self) -> None:
        """Renew at a third of the time to live until the lease is gone; a missed answer is tried again."""
        while self.alive:
            is_fresh = monotonic() - self._renewed_at < self._seconds / 3
            await asyncio.sleep(self._seconds / 3 if is_fresh else RETRY_SECONDS)
            sent_at = monotonic()
            try:
                async with asyncio.timeout(max(1.0, self._seconds / 3)):
                    answer = await self._renew_once()
            except (EtcdError, grpc.aio.AioRpcError, TimeoutError, OSError, RegistryError) as error:
                is_first, self._missed = not self._missed, True
                logger.log(
                    logging.WARNING if is_first else logging.DEBUG, "lease %d was not renewed: %s", self._id, error
                )
                continue
            self._missed = False
            if answer.TTL <= 0:
                self._expired = True
            else:
                self._renewed_at = sent_at

    async def revoke(self) -> None:
        if self._revoked:
            return
        self._expired = self._revoked = True
        with suppress(EtcdError, TimeoutError, grpc.aio.AioRpcError):  # it may be gone already, or etcd itself
            await self._connection.leases.revoke(self._id, timeout=1.0)

    async def _renew_once(self) -> LeaseKeepAliveResponse:
        token = self._connection.token
        stream = self._connection.leases.keep_alive(self._id)
        try:
            async for answer in stream:
                return answer
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                await self._connection.log_in_again(token)
            raise RegistryUnreachable(f"etcd: {words(error)}") from error
        finally:
            stream.cancel()
        raise RegistryUnreachable("etcd closed the stream of the lease")
