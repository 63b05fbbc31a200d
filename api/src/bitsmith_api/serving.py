"""The serving service's client: an order out, lines in as they come. Closing the answer stops its generation."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx
from bitsmith_core.chat import REPLIES, Delta, Done, Order, Refused, Waiting
from bitsmith_core.errors import Transient
from pydantic import SecretStr, ValidationError

QUIET_S = 60.0  # the service says at least every five seconds that it lives


class ServingUnavailable(Transient):
    code = "chat_unavailable"


class Serving:
    """
    Args:
        url: None where this installation has no serving service.
    """

    def __init__(self, url: str | None, token: SecretStr | None) -> None:
        self._url = url
        self._client = httpx.AsyncClient(
            base_url=url or "",
            headers={"Authorization": f"Bearer {token.get_secret_value()}"} if token else {},
            timeout=httpx.Timeout(QUIET_S, connect=5, pool=None),
            limits=httpx.Limits(max_connections=None),  # an answer holds its connection; the service limits them
            trust_env=False,  # a proxy for the internet is none for a service of ours
        )

    async def answer(self, order: Order) -> AsyncGenerator[Waiting | Delta | Done | Refused, None]:
        """Ends with one Done or Refused.

        Raises:
            ServingUnavailable: with what an operator should do.
        """
        if self._url is None:
            raise ServingUnavailable(
                "this installation has no serving service, so its models cannot be chatted with here; start "
                "`python -m bitsmith_serving` and set BITSMITH_SERVING_URL and BITSMITH_SERVING_TOKEN for the API "
                "(`bitsmith up` does both)"
            )
        try:
            async with aclosing(self._lines(order)) as lines:
                async for line in lines:
                    reply = REPLIES.validate_json(line)
                    yield reply
                    if isinstance(reply, Done | Refused):
                        return
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise ServingUnavailable(
                f"the serving service does not answer ({reason}); see that it runs, and try again"
            ) from error
        except ValidationError as error:
            raise ServingUnavailable("the serving service is of another version than the API; update both") from error
        raise ServingUnavailable("the serving service ended in the middle of the answer; try again")

    async def close(self) -> None:
        await self._client.aclose()

    async def _lines(self, order: Order) -> AsyncGenerator[str, None]:
        request = self._client.stream(
            "POST",
            "/v1/generate",
            content=order.model_dump_json(),
            headers={"Content-Type": "application/json"},
        )
        async with request as response:
            if response.status_code == 401:
                raise ServingUnavailable(
                    "the serving service does not know the API's token; set the same BITSMITH_SERVING_TOKEN for both"
                )
            if response.status_code != 200:
                raise ServingUnavailable(
                    f"the serving service answered {response.status_code}; update it and the API to one version"
                )
            async for line in response.aiter_lines():
                yield line
