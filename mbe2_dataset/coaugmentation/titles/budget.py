"""Stops before more is spent than was allowed."""

import threading
from contextlib import contextmanager
from dataclasses import dataclass

from mbe2_dataset.coaugmentation.titles.enrich import Usage, WriterError


class BudgetExceeded(WriterError):
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
        """Within the block, `most` is set aside for one request; give the function that it yields the true usage.

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
        """Requests that are neither spent nor set aside; None without a limit."""
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
