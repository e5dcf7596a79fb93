"""The rules of a grammar under construction, and expressions that are common to all grammars."""

from __future__ import annotations

import re
from typing import Any

import orjson

from mongars.protocol.schema.characters import literal
from mongars.protocol.schema.unsupported import SchemaUnsupported

MOST_CHARACTERS = 600
"""Maximum length in characters of a string for which a schema sets no maximum."""
MOST_ITEMS = 20
"""Maximum number of items of a list, or of free-named members of an object, without a maximum in the schema."""
MOST_FREE_CHARACTERS = 300
MOST_FREE_ITEMS = 12
"""Maximum number of items of a list inside a value of any type."""
MOST_NAME = 64
"""Maximum length in characters of a free member name."""
FREE_LEVELS = 4
"""Maximum number of nested objects and lists in a value of any type."""
COMMA = '"," gap'
"""Expression for the separator between members and between items."""
LINE = "line"
"""Expression for the white space after an opening and before a closing bracket."""
_SPACE = {"gap": '" " | "\\n" " "{0,12}', "line": '("\\n" " "{0,12})?'}
"""White space: everything on one line, or one indented line per element, the two styles common in training data."""
MANY = 16
"""Number of constants above which they are written as a tree of common prefixes."""

MOST_REPEATED = 50_000
"""Maximum number of repetitions in all rules together, since llama.cpp expands each of them."""

_REPEATED = re.compile(r"(\d+)\}")
_CHARACTER = '[^"\\\\\\x00-\\x1F\\x7F] | "\\\\" ["\\\\nt]'
_FREE_NUMBER = '"-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,6})?'


def constant(value: Any) -> str:  # noqa: ANN401 (any JSON value)
    """A JSON value as JSON text, with a space after commas and colons, as grammars write constants."""
    if isinstance(value, dict):
        members = (f"{constant(str(key))}: {constant(part)}" for key, part in value.items())
        return f"{{{', '.join(members)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(constant, value))}]"
    return orjson.dumps(value).decode()


class Rules:
    """The rules of one grammar (GBNF) under construction, by name; rules with the same body are created only once.

    Its methods that return an expression add the rules that the expression refers to.
    """

    def __init__(self) -> None:
        self._rules: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def text(self, root: str) -> str:
        """The text of the whole grammar; `root`: the expression for the texts that it generates.

        Raises `SchemaUnsupported` if its rules have more than `MOST_REPEATED` repetitions in all.
        """
        self._check_size()
        rules = {"root": root, **self._rules, **_SPACE}
        lines = [f"{name} ::= {body}" for name, body in rules.items()]
        return "\n".join(lines)

    def _check_size(self) -> None:
        counts = _REPEATED.findall("\n".join(self._rules.values()))
        if sum(map(int, counts)) > MOST_REPEATED:
            reason = f"asks for more than {MOST_REPEATED} repetitions in all; set lower bounds"
            raise SchemaUnsupported(reason)

    def name(self, kind: str) -> str:
        """Reserve a rule name that is not in use, which begins with `kind`; `set` then gives the rule its body."""
        name = f"{kind}-{len(self._rules)}"
        self._rules[name] = ""
        return name

    def set(self, name: str, body: str) -> None:
        """Set the body, a grammar expression, of the rule `name`."""
        self._rules[name] = body

    def shared(self, body: str) -> str:
        """The name of the rule whose body is the expression `body`; the rule is created if there is none."""
        if body not in self._names:
            self._names[body] = name = self.name("r")
            self._rules[name] = body
        return self._names[body]

    def string(self, least: int, most: int) -> str:
        """A grammar expression for any JSON string of `least` to `most` characters, quotes included."""
        return f'"\\"" {self.shared(_CHARACTER)}{{{least},{most}}} "\\""'

    def key(self) -> str:
        """A grammar expression for any property name of a JSON object: a string of 1 to `MOST_NAME` characters."""
        return self.shared(self.string(1, MOST_NAME))

    def sequence(self, heads: list[str], item: str, *, least: int, most: int) -> str:
        """A grammar expression for a JSON list of `least` to `most` elements.

        `heads`: the expressions of its first elements, in order. `item`: that of every further one; empty: there is
        none.
        """
        heads = heads[:most]
        body = self._tail(item, least - len(heads), most - len(heads))
        if not heads and most:
            body = f"{item} {self._tail(item, least - 1, most - 1)}".strip()
            body = _inside(body, least)
        for index, head in reversed(list(enumerate(heads))):
            body = f"{COMMA if index else ''} {head} {body}".strip()
            if index == 0:
                body = _inside(body, least)
            elif index >= least:
                body = f"({body})?"
        return self.shared(f'"[" {body} "]"')

    def entries(self, entry: str, least: int, most: int) -> str:
        """A grammar expression for a JSON object of `least` to `most` properties, each generated by `entry`."""
        if not most:
            return '"{}"'
        body = f"{entry} {self._tail(entry, least - 1, most - 1)}".strip()
        return self.shared(f'"{{" {_inside(body, least)} "}}"')

    def _tail(self, item: str, least: int, most: int) -> str:
        """A grammar expression for `least` to `most` elements, each with a comma before it.

        `item`: the expression of an element. Empty if `most` is 0 or less, or `item` is empty.
        """
        if most <= 0 or not item:
            return ""
        # A rule of its own: llama.cpp bounds how much one rule may repeat.
        return self.shared(f"{self.shared(f'{COMMA} {item}')}{{{max(0, least)},{most}}}")

    def constants(self, values: list[Any]) -> str:
        """A grammar expression for any one of the given JSON values."""
        texts = list(dict.fromkeys(map(constant, values)))
        if len(texts) <= MANY:
            found = " | ".join(map(literal, texts))
            return f"({found})" if len(texts) > 1 else found
        return self._tree(sorted(texts), 0)

    def _tree(self, texts: list[str], begin: int) -> str:
        """A grammar expression for any one of `texts`, each without its first `begin` characters.

        The texts are sorted and equal up to `begin`; common beginnings are written once.
        """
        if len(texts) == 1:
            return literal(texts[0][begin:])
        first, last = texts[0], texts[-1]
        end = begin
        while end < min(len(first), len(last)) and first[end] == last[end]:
            end += 1
        groups: dict[str, list[str]] = {}
        for text in texts:
            groups.setdefault(text[end : end + 1], []).append(text)
        parts = [self._tree(group, end) if sign else '""' for sign, group in groups.items()]
        shared = literal(first[begin:end]) + " " if end > begin else ""
        return f"{shared}{self.shared(' | '.join(parts))}"

    def any_value(self, levels: int = FREE_LEVELS) -> str:
        """A grammar expression for any JSON value with at most `levels` levels of nested objects and lists."""
        text = self.shared(self.string(0, MOST_FREE_CHARACTERS))
        parts = [text, self.shared(_FREE_NUMBER), '"true"', '"false"', '"null"']
        if levels:
            parts += [self.any_object(levels), self._any_list(levels)]
        return self.shared(" | ".join(parts))

    def any_object(self, levels: int = FREE_LEVELS) -> str:
        """A grammar expression for any JSON object with at most `levels` levels of objects and lists (with itself)."""
        value = self.any_value(levels - 1)
        return self.entries(f'{self.key()} ": " {value}', 0, MOST_FREE_ITEMS)

    def _any_list(self, levels: int) -> str:
        return self.sequence([], self.any_value(levels - 1), least=0, most=MOST_FREE_ITEMS)


def _inside(body: str, least: int) -> str:
    """A grammar expression for what is between brackets: `body`, with white space before and after it.

    If `least`, the minimum number of elements, is 0, all of it may be absent.
    """
    return f"{LINE} {body} {LINE}" if least > 0 else f"({LINE} {body} {LINE})?"
