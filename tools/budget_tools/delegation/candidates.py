"""Candidates for the next turn: each model in its order, with the conversation in the form that the model takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from budget_tools.claude.client import Failure
from budget_tools.delegation.conversation import Conversation
from budget_tools.delegation.log import DelegationLog
from budget_tools.delegation.policy import Fitter, Need, request_options
from budget_tools.delegation.records import Task
from budget_tools.delegation.store import Message
from budget_tools.pricing.book import PriceBook


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnCandidate:
    """One way to take a turn: a model with its prices, and the conversation in the form that the model takes."""

    fitter: Fitter
    conversation: Conversation
    rebuilt: Sequence[Message] = ()
    """The conversation itself, if it was rebuilt for this model and is not stored yet."""

    @property
    def model(self) -> str:
        """The model that is asked."""
        return self.fitter.model

    @property
    def is_cached(self) -> bool:
        """Whether its requests write their prompt to the cache."""
        return self.fitter.options.cache != "none"

    def shortened(self) -> Sequence["TurnCandidate"]:
        """Return this candidate and, in case it is too long to be paid for, one without its last tool results."""
        if self.rebuilt:
            return (self,)
        return (self, replace(self, conversation=self.conversation.with_last_results_left_out()))


def is_of_model(failure: Failure, model: str) -> bool:
    """Return whether an attempt failed because of the model that it asked, so that another one may answer.

    An overload and a rate limit are each model's own ("Rate limits"); a wrong key, a limit of spend, a request that is
    too long and a network that is down are not. A model that no longer exists is distinguished from a wrong address by
    the endpoint's words, if it has any but "not found".
    """
    words = failure.message.lower()
    if failure.status == 529 or failure.error_type == "overloaded_error":
        return True
    if failure.status == 429 or failure.error_type == "rate_limit_error":
        return "spend" not in words
    if failure.status in (404, 410) or (failure.status is None and failure.error_type == "not_found_error"):
        return "model" in words or (
            failure.error_type == "not_found_error" and not words.rstrip(". ").endswith(": not found")
        )
    is_refused = failure.status in (400, 403) or failure.error_type in ("invalid_request_error", "permission_error")
    return is_refused and model.lower() in words


class Candidates:
    """The candidates of one delegation: the model in use, then each of its fallbacks.

    Args:
        task: names the models.
        prices: the prices in force.
        log: knows the model in use.
        grows: whether there may be another turn after the next one.
    """

    def __init__(self, task: Task, *, prices: PriceBook, log: DelegationLog, grows: bool) -> None:
        self._task = task
        self._prices = prices
        self._log = log
        self._grows = grows
        self._passed_over: dict[str, Failure] = {}
        self._uncovered: list[tuple[Fitter, int]] = []

    def of(self, conversation: Conversation) -> Iterator[TurnCandidate]:
        """Yield the candidates, without models that were passed over before."""
        current = self._log.model
        for model in self._models():
            if model in self._passed_over:
                continue
            options = request_options(self._prices, model, grows=self._grows)
            fitter = Fitter(prices=self._prices, model=model, options=options)
            if model == current:
                yield TurnCandidate(fitter=fitter, conversation=conversation)
            elif conversation.is_bound_to_its_model:
                rebuilt = conversation.rebuilt(self._task)
                yield TurnCandidate(fitter=fitter, conversation=rebuilt, rebuilt=rebuilt.messages)
            else:
                # Each model counts tokens in its own way: only the messages are the same.
                yield TurnCandidate(fitter=fitter, conversation=Conversation(conversation.messages))

    def pass_over(self, model: str, failure: Failure) -> bool:
        """Stop asking a model that cannot answer now, until the delegation is resumed; return whether another is left.

        If no other is left, or the model is not the reason for the failure, nothing changes.
        """
        if not is_of_model(failure, model) or all(other == model for other in self._models()):
            return False
        self._passed_over[model] = failure
        return True

    @property
    def last_failure(self) -> str:
        """The endpoint's words about the model that was passed over last; ``""`` if none was."""
        return list(self._passed_over.values())[-1].message if self._passed_over else ""

    # -- what was not covered ---------------------------------------------------------------------------------------

    def forget_uncovered(self) -> None:
        """Begin a turn."""
        self._uncovered.clear()

    def note_uncovered(self, candidate: TurnCandidate, input_tokens: int) -> None:
        """Record that the money does not cover the requested turn on this model."""
        self._uncovered.append((candidate.fitter, input_tokens))

    def need(self, *, further_tokens: int = 0) -> Need | None:
        """Return what the cheapest candidate needs, if one was not covered as it was asked for.

        Args:
            further_tokens: by how much its prompt grows until it is taken.
        """
        wanted = self._task.max_output_tokens
        needs = [
            fitter.need(input_tokens=tokens + further_tokens, wanted_output_tokens=wanted, has_landing=self._grows)
            for fitter, tokens in self._uncovered
        ]
        return min(needs, default=None)

    def _models(self) -> Sequence[str]:
        current, fallbacks = self._log.model, self._task.fallback_models
        later = fallbacks[fallbacks.index(current) + 1 :] if current in fallbacks else fallbacks
        return [model for model in (current, *later) if model not in self._passed_over]
