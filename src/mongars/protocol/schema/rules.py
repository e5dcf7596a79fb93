"""The rules of one grammar, and those that every grammar may need."""

from __future__ import annotations

import re
from typing import Any

import orjson

from mongars.protocol.schema.characters import literal
from mongars.protocol.schema.unsupported import SchemaUnsupported

MOST_CHARACTERS = 600
"""Characters of a text where a schema sets no bound."""
MOST_ITEMS = 20
"""Items of a list, and members of an object with free names, likewise."""
MOST_FREE_CHARACTERS = 300
MOST_FREE_ITEMS = 12
"""The same inside values of any type."""
MOST_NAME = 64
"""Characters of a free name."""
FREE_LEVELS = 4
"""Objects and lists inside each other in a value of any type."""
COMMA = '"," gap'
"""Between members, and between items."""
LINE = "line"
"""After an opening bracket and before a closing one."""
_SPACE = {"gap": '" " | "\\n" " "{0,12}', "line": '("\\n" " "{0,12})?'}
"""Either everything on one line, or one line each, indented: models prefer what they have read."""
MANY = 16
"""More constants than these are written as a tree of common beginnings."""

MOST_REPEATED = 50_000
"""Repetitions in all rules together: llama.cpp makes an element of each."""

_REPEATED = re.compile(r"(\d+)\}")
_CHARACTER = '[^"\\\\\\x00-\\x1F\\x7F] | "\\\\" ["\\\\nt]'
_FREE_NUMBER = '"-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,6})?'


def constant(value: Any) -> str:  # noqa: ANN401 (any JSON value)
    """A JSON value as it is written."""
    if isinstance(value, dict):
        members = (f"{constant(str(key))}: {constant(part)}" for key, part in value.items())
        return f"{{{', '.join(members)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(constant, value))}]"
    return orjson.dumps(value).decode()


class Rules:
    """Names and bodies; equal bodies share a name."""

    def __init__(self) -> None:
        self._rules: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def text(self, root: str) -> str:
        """The grammar that begins with this expression."""
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
        """A new name."""
        name = f"{kind}-{len(self._rules)}"
        self._rules[name] = ""
        return name

    def set(self, name: str, body: str) -> None:
        """The body of a name."""
        self._rules[name] = body

    def shared(self, body: str) -> str:
        """The name of a rule with this body."""
        if body not in self._names:
            self._names[body] = name = self.name("r")
            self._rules[name] = body
        return self._names[body]

    def string(self, least: int, most: int) -> str:
        """A text of so many characters."""
        return f'"\\"" {self.shared(_CHARACTER)}{{{least},{most}}} "\\""'

    def key(self) -> str:
        """A free name."""
        return self.shared(self.string(1, MOST_NAME))

    def sequence(self, heads: list[str], item: str, *, least: int, most: int) -> str:
        """A list: the heads in order, then items; with so many elements in all."""
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
        """An object of so many free members."""
        if not most:
            return '"{}"'
        body = f"{entry} {self._tail(entry, least - 1, most - 1)}".strip()
        return self.shared(f'"{{" {_inside(body, least)} "}}"')

    def _tail(self, item: str, least: int, most: int) -> str:
        """Further elements, each after a comma."""
        if most <= 0 or not item:
            return ""
        # A rule of its own: llama.cpp bounds how much one rule may repeat.
        return self.shared(f"{self.shared(f'{COMMA} {item}')}{{{max(0, least)},{most}}}")

    def constants(self, values: list[Any]) -> str:
        """One of these values."""
        texts = list(dict.fromkeys(map(constant, values)))
        if len(texts) <= MANY:
            found = " | ".join(map(literal, texts))
            return f"({found})" if len(texts) > 1 else found
        return self._tree(sorted(texts), 0)

    def _tree(self, texts: list[str], begin: int) -> str:
        """One of the texts from this character on; they are sorted and share what is before."""
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
        """Any value, with so many objects and lists inside each other."""
        text = self.shared(self.string(0, MOST_FREE_CHARACTERS))
        parts = [text, self.shared(_FREE_NUMBER), '"true"', '"false"', '"null"']
        if levels:
            parts += [self.any_object(levels), self._any_list(levels)]
        return self.shared(" | ".join(parts))

    def any_object(self, levels: int = FREE_LEVELS) -> str:
        """Any object."""
        value = self.any_value(levels - 1)
        return self.entries(f'{self.key()} ": " {value}', 0, MOST_FREE_ITEMS)

    def _any_list(self, levels: int) -> str:
        return self.sequence([], self.any_value(levels - 1), least=0, most=MOST_FREE_ITEMS)


def _inside(body: str, least: int) -> str:
    """What stands between brackets: lines around it, or nothing at all where that is allowed."""
    return f"{LINE} {body} {LINE}" if least > 0 else f"({LINE} {body} {LINE})?"
