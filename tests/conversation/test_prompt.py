from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mongars.conversation.history import Turn
from mongars.conversation.prompt import (
    ContextBudget,
    assemble,
    estimate_prompt,
    estimate_tokens,
    shrink,
)
from mongars.core.generation import Message

WORDS = st.text(max_size=60)


def turn(number: int, query: str, response: str) -> Turn:
    """A stored turn with that id, message and answer."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Turn(id=number, user_id="ada", query=query, response=response, timestamp=at)


TURNS = st.lists(st.tuples(WORDS, WORDS), max_size=12).map(
    lambda pairs: [turn(n, q, r) for n, (q, r) in reversed(list(enumerate(pairs)))]
)
BUDGETS = st.builds(
    ContextBudget,
    context_tokens=st.integers(min_value=0, max_value=600),
    answer_tokens=st.integers(min_value=0, max_value=200),
)


@given(turns=TURNS, message=WORDS, system=st.none() | WORDS, budget=BUDGETS)
def test_a_prompt_keeps_to_its_budget(
    turns: list[Turn], message: str, system: str | None, budget: ContextBudget
) -> None:
    """A prompt exceeds its budget only if it consists of just the system prompt and the message."""
    prompt = assemble(turns, message, system=system, budget=budget)
    bare = assemble([], message, system=system, budget=budget)
    assert prompt == bare or estimate_prompt(prompt) <= budget.room


@given(turns=TURNS, message=WORDS, system=st.none() | WORDS, budget=BUDGETS)
def test_a_prompt_is_the_latest_part_of_the_conversation(
    turns: list[Turn], message: str, system: str | None, budget: ContextBudget
) -> None:
    """A prompt is the system prompt, the newest complete turns in chronological order, and the message."""
    prompt = list(assemble(turns, message, system=system, budget=budget))
    if system:
        assert prompt.pop(0) == Message(role="system", content=system)
    assert prompt.pop() == Message(role="user", content=message)
    whole = [
        one
        for t in reversed(turns)
        if t.query.strip() and t.response.strip()
        for one in (
            Message(role="user", content=t.query),
            Message(role="assistant", content=t.response),
        )
    ]
    assert len(prompt) % 2 == 0
    assert prompt == whole[len(whole) - len(prompt) :]


@given(turns=TURNS, message=WORDS)
def test_a_large_budget_takes_everything(turns: list[Turn], message: str) -> None:
    """If the budget suffices, all complete turns are in the prompt."""
    budget = ContextBudget(context_tokens=100_000, answer_tokens=0)
    complete = [t for t in turns if t.query.strip() and t.response.strip()]
    assert len(assemble(turns, message, system=None, budget=budget)) == 2 * len(complete) + 1


@given(
    turns=TURNS,
    message=WORDS,
    budget=BUDGETS,
    prompt_tokens=st.integers(min_value=0, max_value=10_000),
    context_tokens=st.integers(min_value=0, max_value=10_000),
)
def test_shrinking_always_makes_progress(
    turns: list[Turn],
    message: str,
    budget: ContextBudget,
    prompt_tokens: int,
    context_tokens: int,
) -> None:
    """Whatever numbers the engine gave, the new budget excludes the refused prompt, so that it is not sent again."""
    sent = assemble(turns, message, system=None, budget=budget)
    tighter = shrink(budget, sent, prompt_tokens=prompt_tokens, context_tokens=context_tokens)
    assert tighter.room < estimate_prompt(sent)
    assert tighter.room <= budget.room
    if len(sent) > 1:
        assert len(assemble(turns, message, system=None, budget=tighter)) < len(sent)


def test_shrinking_uses_the_engines_numbers() -> None:
    """If the engine counts twice as many tokens as our estimate, the new budget shrinks accordingly."""
    sent = (Message(role="user", content="x" * 276),)  # 92 + 8 tokens by our estimate
    budget = ContextBudget(context_tokens=150, answer_tokens=50)
    assert estimate_prompt(sent) == 100
    tighter = shrink(budget, sent, prompt_tokens=200, context_tokens=150)
    assert tighter == ContextBudget(context_tokens=100, answer_tokens=50)


def test_a_small_window_leaves_half_for_the_answer() -> None:
    """A context smaller than the configured answer is divided equally between prompt and answer."""
    sent = (Message(role="user", content="x" * 276),)
    budget = ContextBudget(context_tokens=4096, answer_tokens=512)
    tighter = shrink(budget, sent, prompt_tokens=100, context_tokens=64)
    assert (tighter.answer_tokens, tighter.room) == (32, 32)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 8), ("abc", 9), ("abcd", 10), ("日本", 10)],
    ids=["empty", "exact", "rounded up", "bytes"],
)
def test_estimates_count_bytes(text: str, tokens: int) -> None:
    """A token is estimated as three UTF-8 bytes, rounded up, plus eight tokens per message."""
    assert estimate_tokens(text) == tokens
