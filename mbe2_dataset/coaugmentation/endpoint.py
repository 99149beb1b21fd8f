"""Servers with the OpenAI API (vLLM, `transformers serve`, a hosted one): client, spending, faults."""

import operator
import os
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import cached_property
from importlib import import_module
from types import ModuleType

from common_moon2.hub import without_secrets
from mbe2_dataset.errors import ModelError
from pictures_moon2 import address


@dataclass(frozen=True, slots=True)
class Usage:
    """Requests, tokens, and money in the currency of the prices."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*map(operator.add, astuple(self), astuple(other)))


class Refusal(Exception):
    """A model gave nothing usable for one product; the message is the reason, for the record of that product.

    `usage` is what the attempts cost. With `retry` the server failed, so a later run may ask again.
    """

    def __init__(self, reason: str, usage: Usage | None = None, retry: bool = False):
        super().__init__(reason)
        self.usage = usage or Usage()
        self.retry = retry


class BudgetExceeded(ModelError):
    """The next request might cost more than is left of the budget. It was not sent."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that may be used in one run; None is no limit. Tokens are input and output together."""

    max_requests: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None


class Account:
    """Keeps `spent` within a budget, from several threads."""

    def __init__(self, budget: Budget):
        self.budget = budget
        self.spent = Usage()
        self._reserved: list[Usage] = []
        self._lock = threading.Lock()

    @contextmanager
    def reserve(self, most: Usage):
        """Set `most` aside for one request, and yield the function that takes the true usage.

        A request that fails counts in full, because whoever answers late may still send a bill.

        Raises:
            BudgetExceeded: there is not that much left.
        """
        used = most

        def settle(usage: Usage) -> None:
            nonlocal used
            used = usage

        with self._lock:
            self._check(sum([*self._reserved, most], start=self.spent))
            self._reserved.append(most)
        try:
            yield settle
        finally:
            with self._lock:
                self._reserved.remove(most)
                self.spent += used

    def requests_left(self) -> int | None:
        """Return how many requests are neither spent nor set aside; None without a limit."""
        if self.budget.max_requests is None:
            return None
        with self._lock:
            return self.budget.max_requests - sum(self._reserved, start=self.spent).requests

    def _check(self, total: Usage) -> None:
        for name, limit, wanted in (
            ("requests", self.budget.max_requests, total.requests),
            ("tokens", self.budget.max_tokens, total.input_tokens + total.output_tokens),
            ("cost", self.budget.max_cost, total.cost),
        ):
            if limit is not None and wanted > limit:
                spent = self.spent
                raise BudgetExceeded(
                    f"The budget of {limit:,g} {name} would not be enough for one more request. Spent so far: "
                    f"{spent.requests:,} requests, {spent.input_tokens + spent.output_tokens:,} tokens, "
                    f"cost {spent.cost:,.4f}. Give more, and run the same command again: it goes on from here."
                )


class Endpoint:
    """One model on one server. It may be used from several threads.

    The openai package sends a request again after 429, 5xx, a time-out or a lost connection, with jitter and as the
    server says in Retry-After.

    Args:
        base_url: for instance "http://localhost:8000/v1".
        model: its name on the server.
        revision: what the user calls the served version; it is recorded.
        api_key_env: the environment variable that holds the key. A key is in no attribute, message or log.
        timeout: seconds for one request.
        input_price, output_price: for a million tokens.
        price: for one request, besides.

    Raises:
        ModuleNotFoundError: the package openai is missing.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        revision: str = "",
        *,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: float = 120.0,
        max_retries: int = 5,
        input_price: float = 0.0,
        output_price: float = 0.0,
        price: float = 0.0,
        budget: Budget | None = None,
    ):
        optional_package("openai", "An endpoint")
        self.base_url, self.model, self.revision, self.api_key_env = base_url, model, revision, api_key_env
        self.timeout, self.max_retries = timeout, max_retries
        self.input_price, self.output_price, self.price = input_price, output_price, price
        self.account = Account(budget or Budget())

    def __str__(self) -> str:
        return f"The server {address(self.base_url)}"

    @cached_property
    def _client(self):
        import openai

        # Servers on one's own machine want no key, but the client does.
        key = os.environ.get(self.api_key_env) or "none"
        return openai.OpenAI(base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=self.max_retries)

    def usage(self, requests: int, input_tokens: int, output_tokens: int) -> Usage:
        """Return a usage with its cost."""
        tokens = (input_tokens * self.input_price + output_tokens * self.output_price) / 1e6
        return Usage(requests, input_tokens, output_tokens, self.price + tokens)

    def send(self, method: str, read: Callable[[object], str], most: Usage, **fields: object) -> tuple[str, Usage]:
        """Send one request, if the account has `most` left.

        Args:
            method: of the client, such as "chat.completions.create"; `fields` are its arguments.
            read: takes the content out of the answer.

        Returns:
            The content, and what was used.

        Raises:
            BudgetExceeded: one more request might cost more than is left.
            openai.OpenAIError: the request failed, or `read` finds no content.
        """
        import openai

        with self.account.reserve(most) as settle:
            left = self.account.requests_left()
            client = self._client.with_options(
                max_retries=self.max_retries if left is None else min(self.max_retries, left)
            )
            raw = operator.attrgetter(method)(client.with_raw_response)(model=self.model, **fields)
            try:
                answer = raw.parse()
                content, told = read(answer), answer.usage
            except (ValueError, AttributeError, IndexError, TypeError):
                raise openai.OpenAIError("no usable answer") from None
            # Chat and images name their tokens differently.
            counts = [
                getattr(told, f"{one}_tokens", None) or getattr(told, f"{other}_tokens", None) or 0
                for one, other in (("prompt", "input"), ("completion", "output"))
            ]
            usage = self.usage(1 + raw.retries_taken, *counts)
            settle(usage)
        return content, usage

    def fault(self, error: Exception) -> ModelError | None:
        """Return what to raise for a client's error after which no request would fare better; None after others."""
        import openai

        status = getattr(error, "status_code", None)
        if status in (401, 403):
            return ModelError(f"{self} refuses the key (status {status}): set the variable {self.api_key_env}.")
        if status == 404:
            return ModelError(f"{self} knows no model {self.model!r} (status 404): check the address and the name.")
        if getattr(error, "code", None) == "insufficient_quota":
            return ModelError(f"{self} says that the quota is used up (status {status}): see your account there.")
        if isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError):
            reason = self.quoted(error.__cause__ or error)
            return ModelError(
                f"{self} cannot be reached, or broke off ({reason}): see that it runs, and run this again."
            )
        return None

    def quoted(self, error: BaseException) -> str:
        """Return the beginning of what an error says, without the key, which a server or client may repeat."""
        text = " ".join(str(getattr(error, "message", error)).split())
        text = without_secrets(text, os.environ.get(self.api_key_env))
        return text if len(text) <= 200 else text[:200] + " ..."


def optional_package(name: str, purpose: str) -> ModuleType:
    """Import a package that is not always installed.

    Raises:
        ModuleNotFoundError: it is missing; the message says what for and how to get it.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{purpose} needs the package '{name}': pip install 'moon2[augment]' (or pip install {name})."
        ) from error
