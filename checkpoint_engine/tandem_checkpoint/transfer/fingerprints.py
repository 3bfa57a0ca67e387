"""What a trainer's engine says its ranks hold, asked for by HTTP as segments are."""

import aiohttp
from pydantic import ValidationError

from tandem_api.engine import ProblemDetails, WeightFingerprints
from tandem_checkpoint.tls import Trust
from tandem_checkpoint.transfer.fetch import FetchFailed

CONNECT_SECONDS = 5.0
OK, CONFLICT = 200, 409


class NotHeldNow(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The trainer's ranks do not hold the generation at this moment; the message says why."""


async def ask_fingerprints(url: str, generation: int, token: str, trust: Trust | None = None) -> WeightFingerprints:
    """Return what the ranks of one trainer hold; it waits for a command that they are busy with.

    Args: url: of the trainer's engine. trust: believes engines that speak TLS. Raises: NotHeldNow; FetchFailed. The
    caller sets the deadline.
    """
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trust.context) if trust else None,
        headers={"Authorization": f"Bearer {token}"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
    ) as session:
        path = f"{url}/v1/weights/{generation}/fingerprints"
        try:
            async with session.get(path, server_hostname=trust.name if trust else None) as response:
                body = await response.read()
        except aiohttp.ClientError as error:
            raise FetchFailed(f"{path} got no answer ({type(error).__name__} {error})".rstrip()) from error
    if response.status == CONFLICT:
        raise NotHeldNow(ProblemDetails.model_validate_json(body).detail)
    if response.status != OK:
        raise FetchFailed(f"{path} answered {response.status}: {body[:200].decode(errors='replace')}")
    try:
        return WeightFingerprints.model_validate_json(body)
    except ValidationError as error:
        raise FetchFailed(
            f"{path} cannot be read: {error.errors()[0]['msg']}; is the engine of another version?"
        ) from error
