"""Convert conversations to prompt tokens for vLLM; control tokens typed in a message stay text."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from mongars.core.control_tokens import (
    Marker,
    Markers,
    Placeholders,
    literal_parts,
    vocabulary_markers,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mongars.core.generation import GenerationRequest, Message, PromptCacheScope


class AddedToken(Protocol):
    """A token that was added to a tokenizer's vocabulary; `content` is its text, `special` True for control tokens."""

    content: str
    special: bool


class Tokenizer(Protocol):
    """The attributes and methods of a `transformers` tokenizer that `ChatPrompts` uses."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        """The tokens that were added to the vocabulary, by their id; each is recognised as a whole in a text."""
        ...

    def get_chat_template(self) -> str:
        """The source text of the chat template (Jinja)."""
        ...

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:  # noqa: ANN401 (text or tokens)
        """Render the messages `conversation` (`role` and `content`) with the chat template.

        Returns a text with `tokenize` False, a list of token ids with `tokenize` True and `return_dict` False.
        `options` are these and other ones of `transformers`, such as `add_generation_prompt`.
        """
        ...

    def encode(self, text: str, **options: Any) -> list[int]:  # noqa: ANN401 (theirs)
        """Convert a text to token ids; `options` are those of `transformers`, such as `add_special_tokens`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompts:
    """Converts conversations to prompts of token ids, for one tokenizer with its chat template.

    `markers`: the texts of its control tokens, and `ids` their token ids. `others`: those of them that the tokenizer
    recognises even in plain text.
    """

    tokenizer: Tokenizer
    markers: Markers
    others: Markers
    ids: Mapping[str, int]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self:
        """Make a converter for `tokenizer`, with the control tokens that the tokenizer lists.

        For a tokenizer without such a list (Mistral's), it has none: that tokenizer recognises no control token in a
        text.
        """
        if not hasattr(tokenizer, "added_tokens_decoder"):
            return cls(tokenizer=tokenizer, markers=Markers(()), others=Markers(()), ids={})
        added = tokenizer.added_tokens_decoder
        kinds = {token.content: token.special for token in added.values()}
        markers, others = vocabulary_markers(kinds, tokenizer.get_chat_template())
        ids = {token.content: index for index, token in added.items()}
        return cls(tokenizer=tokenizer, markers=markers, others=others, ids=ids)

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """The token ids of the prompt for a conversation; control tokens typed in a message become plain text.

        Raises the errors of the chat template, such as `jinja2.TemplateError` or `ValueError`.
        """
        texts = [message.content for message in messages]
        if not any(map(self.markers.may_occur_in, texts)):
            return list(self._rendered(messages, texts, tokenize=True))
        placeholders = Placeholders.instead_of(texts)
        rendered = self._rendered(messages, placeholders.contents(), tokenize=False)
        found: list[int] = []
        for part in literal_parts(rendered, placeholders, markers=self.markers, others=self.others):
            found += [self.ids[part.text]] if isinstance(part, Marker) else self._plain(part)
        return found

    def _rendered(
        self, messages: Sequence[Message], texts: Sequence[str], *, tokenize: bool
    ) -> Any:  # noqa: ANN401 (text or tokens)
        pairs = zip(messages, texts, strict=True)
        conversation = [{"role": message.role, "content": text} for message, text in pairs]
        options = {"return_dict": False} if tokenize else {}
        return self.tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=tokenize, **options
        )

    def _plain(self, text: str) -> list[int]:
        tokens = self._encoded(text)
        if not {self.ids[marker] for marker in self.markers.texts}.isdisjoint(tokens):
            # A tokenizer that ignores the option still recognises no marker that is cut in two.
            tokens = [token for piece in self.markers.cut(text) for token in self._encoded(piece)]
        return tokens

    def _encoded(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def token_prompt(
    tokens: list[int], request: GenerationRequest, *, cache_scope: PromptCacheScope
) -> dict[str, Any]:
    """The prompt of token ids in vLLM's format, with a cache salt that restricts who reuses the cached prompt.

    Keys: `prompt_token_ids` and `cache_salt`. vLLM reuses a cached prompt only for requests with the same salt: those
    of the same account (`request.scope`). A request without an account (None) gets a random salt, so its prompt is
    never reused. If `cache_scope` is `shared`, there is no salt, and every request may reuse it.
    """
    if cache_scope == "shared":
        return {"prompt_token_ids": tokens}
    salt = secrets.token_hex(16) if request.scope is None else f"scope {request.scope}"
    return {"prompt_token_ids": tokens, "cache_salt": salt}
