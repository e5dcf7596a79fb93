"""Generate the page about the supported parts of JSON Schema."""

from __future__ import annotations

from mongars.protocol import response_format as limits
from mongars.protocol.schema import formats, keywords, numbers, pattern, rules


def schemas_page() -> str:
    """The reference page about the supported keywords of JSON Schema, as Markdown.

    It is generated from the same tables that requests with a `response_format` are checked against.
    """
    named = ", ".join(f"`{name}`" for name in sorted(formats.PATTERNS))
    free = ", ".join(f"`{name}`" for name in sorted(formats.FREE))
    passed = ", ".join(f"`{name}`" for name in sorted(keywords.ANNOTATIONS))
    lines = [
        "# What of JSON Schema is enforced",
        "",
        "A `response_format` of type `json_schema` is enforced, strict or not. A keyword that is not in",
        "this table is refused with 400 `unsupported_parameter`; the message names it and its place in the",
        f"schema. Annotations pass: {passed} and names that begin with `x-`.",
        "",
        "*Grammar*: llama.cpp, on a replica and in the API process. *Conversion*: Ollama, vLLM, and models on",
        "llama.cpp whose template provides for reasoning; these engines convert schemas themselves.",
        "",
        "| Keyword | Grammar | Conversion |",
        "| --- | --- | --- |",
    ]
    for name, bounds in sorted(keywords.GRAMMAR.items()):
        converted = keywords.CONVERTER.get(name)
        theirs = "refused" if converted is None else converted or "yes"
        lines.append(f"| `{name}` | {bounds or 'yes'} | {theirs} |")
    lines += [
        "",
        f"Formats (grammar): {named}; {free} do not constrain a text and pass. For numbers `int64`,",
        "`float`, `double`, `decimal` pass.",
        "",
        "Where a schema sets no bound, the grammar does, so that answers end:",
        "",
        "| | at most |",
        "| --- | --- |",
        f"| characters of a text | {rules.MOST_CHARACTERS} |",
        f"| items of a list, members with free names | {rules.MOST_ITEMS} |",
        f"| characters of a free name | {rules.MOST_NAME} |",
        f"| inside values of any type, and in `json_object`: characters, items, levels |"
        f" {rules.MOST_FREE_CHARACTERS}, {rules.MOST_FREE_ITEMS}, {rules.FREE_LEVELS} |",
        f"| open repetitions (`+`, `*`) in a pattern: of few characters, of nearly any, of groups |"
        f" {pattern.OPEN_CHARACTERS}, {pattern.OPEN_ANY}, {pattern.OPEN_GROUPS} |",
        f"| digits of a number, of them after the point | {numbers.DIGITS}, {numbers.FRACTION} |",
        "",
        "Limits of a schema; beyond them it is refused with 400:",
        "",
        "| | at most |",
        "| --- | --- |",
        f"| objects and lists | {limits.MOST_PARTS} |",
        f"| values in lists, such as constants | {limits.MOST_VALUES} |",
        f"| levels | {limits.DEEPEST} |",
        f"| characters of a text in it, of a pattern | {limits.LONGEST_TEXT}, {limits.LONGEST_PATTERN} |",
        f"| repetitions of one part (`maxItems`, `maxLength`) | {limits.MOST_REPEATS} |",
        f"| the same, those of nested lists multiplied | {limits.MOST_PRODUCT} |",
        f"| nested repetitions in a pattern | {limits.MOST_NESTED_REPEATS} |",
        f"| repetitions in all | {rules.MOST_REPEATED} |",
    ]
    return "\n".join(lines) + "\n"
