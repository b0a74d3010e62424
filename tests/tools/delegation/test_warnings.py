"""A host hears that a delegation leaves little of its budget."""

import pytest

from budget_server.demo.scripted_claude import Turn, Usage
from budget_tools.core.money import parse_usd
from hosting import text_of
from tools.delegation.harness import OpenBench, beside

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("usd", "mark"), [("0.07", 50), ("0.05", 80)])
async def test_a_delegation_that_leaves_little_of_its_budget_says_so(bench: OpenBench, usd: str, mark: int) -> None:
    """README, Tools: in the answer of the delegation, of its status, and of another process that looks at it."""
    b = await bench([Turn(text="Done.", usage=Usage(output_tokens=4_000))], usd=usd)

    answered = await b.call("delegate_to_claude", task="Do it.")
    result = answered.structured_content or {}
    allocated = parse_usd(usd, name="usd")
    used = allocated - result["remaining"]["amount"]
    again = await b.status(result["delegation_id"])
    async with beside(b) as other:
        elsewhere = await other.status(result["delegation_id"])

    percent = used * 100 // allocated
    expected = [f"tenant:local has reached the {mark} % mark: {percent} % of its {usd} USD is used"]
    assert result["warnings"] == again["warnings"] == elsewhere["warnings"] == expected
    assert f"Warning: {expected[0]}." in text_of(answered)


async def test_a_delegation_that_leaves_much_warns_of_nothing(bench: OpenBench) -> None:
    """A warning that always stands there is read by nobody."""
    b = await bench([Turn(text="Done.")])

    assert (await b.delegate())["warnings"] == []
