"""Request parameters that are not read: ignored because the answer does not depend on them, or refused.

A parameter that the answer depends on and that is not read is refused with 400, unless its value
asks for what happens anyway. Null always counts as left out. Names in none of these tables are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

IGNORED = {
    "cache_prompt": "speed only",
    "id_slot": "speed only",
    "metadata": "for the caller's own records",
    "parallel_tool_calls": "no tool is called",
    "prediction": "speed only",
    "prompt_cache_key": "speed only",
    "prompt_cache_retention": "speed only",
    "reasoning_effort": "a hint",
    "return_progress": "speed only",
    "safety_identifier": "for the caller's own records",
    "service_tier": "speed only",
    "store": "for the caller's own records",
    "timings_per_token": "for the caller's own records",
    "tools": "an answer in text is one that `tool_choice: auto` allows",
    "functions": "the same",
    "user": "for the caller's own records",
    "verbosity": "a hint",
}
"""Accepted with any value, and why nothing of the answer depends on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Why a parameter is refused, and the values that ask for what happens anyway."""

    reason: str
    neutral: tuple[Any, ...] = ()
    harmless: Callable[[Any], bool] | None = None
    """The same for values that cannot be listed."""

    def refuses(self, value: object) -> bool:
        """Whether the answer would depend on that value."""
        if self.harmless is not None and self.harmless(value):
            return False
        return value not in self.neutral


def _lets_the_model_choose(value: object) -> bool:
    """Whether a tool choice allows an answer in text."""
    allowed = value.get("allowed_tools") if isinstance(value, dict) else None
    return isinstance(allowed, dict) and allowed.get("mode") == "auto"


_NO_TOOLS = "tools are not called yet; only 'auto', which may answer with text, and 'none' work"
_ONE_FORMAT = "not supported; use response_format with type json_schema"
_SAMPLER = "this sampler is not supported; leave it out"
_TEMPLATE = "the prompt is written by the model's own template; leave it out"
_ALIAS = "not a parameter here; use max_tokens"

GENERATION_REFUSED: dict[str, Refused] = {
    # tools
    "tool_choice": Refused(
        reason=_NO_TOOLS, neutral=("auto", "none"), harmless=_lets_the_model_choose
    ),
    "function_call": Refused(reason=_NO_TOOLS, neutral=("auto", "none")),
    # other media
    "modalities": Refused(reason="only text is generated: use ['text']", neutral=([], ["text"])),
    "audio": Refused(reason="audio is not generated; leave it out"),
    "web_search_options": Refused(reason="the web is not searched; leave it out"),
    # formats in the words of other servers
    "grammar": Refused(reason=_ONE_FORMAT, neutral=("",)),
    "grammar_lazy": Refused(reason=_ONE_FORMAT, neutral=(False,)),
    "json_schema": Refused(reason=_ONE_FORMAT),
    "format": Refused(reason=_ONE_FORMAT, neutral=("",)),
    "guided_json": Refused(reason=_ONE_FORMAT),
    "guided_regex": Refused(reason=_ONE_FORMAT),
    "guided_choice": Refused(reason=_ONE_FORMAT),
    "guided_grammar": Refused(reason=_ONE_FORMAT),
    "structured_outputs": Refused(reason=_ONE_FORMAT),
    # lengths in the words of other servers
    "n_predict": Refused(reason=_ALIAS, neutral=(-1,)),
    "num_predict": Refused(reason=_ALIAS, neutral=(-1,)),
    "max_new_tokens": Refused(reason=_ALIAS),
    "min_tokens": Refused(reason="answers have no least length", neutral=(0,)),
    "ignore_eos": Refused(reason="answers end where the model ends them", neutral=(False,)),
    "stop_token_ids": Refused(reason="use stop, with texts", neutral=([],)),
    "include_stop_str_in_output": Refused(reason="not supported", neutral=(False,)),
    "bad_words": Refused(reason="use logit_bias", neutral=([],)),
    "allowed_token_ids": Refused(reason="use logit_bias", neutral=([],)),
    # samplers
    "best_of": Refused(reason="use n", neutral=(1,)),
    "use_beam_search": Refused(reason=_SAMPLER, neutral=(False,)),
    "length_penalty": Refused(reason=_SAMPLER, neutral=(1,)),
    "early_stopping": Refused(reason=_SAMPLER, neutral=(False,)),
    "typical_p": Refused(reason=_SAMPLER, neutral=(1,)),
    "tfs_z": Refused(reason=_SAMPLER, neutral=(1,)),
    "top_a": Refused(reason=_SAMPLER, neutral=(0,)),
    "top_n_sigma": Refused(reason=_SAMPLER, neutral=(-1,)),
    "mirostat": Refused(reason=_SAMPLER, neutral=(0,)),
    "xtc_probability": Refused(reason=_SAMPLER, neutral=(0,)),
    "dry_multiplier": Refused(reason=_SAMPLER, neutral=(0,)),
    "dynatemp_range": Refused(reason=_SAMPLER, neutral=(0,)),
    "samplers": Refused(reason=_SAMPLER, neutral=([],)),
    "repeat_last_n": Refused(reason="the range of repeat_penalty is the engine's own"),
    # prompts
    "chat_template": Refused(reason=_TEMPLATE),
    "chat_template_kwargs": Refused(reason=_TEMPLATE, neutral=({},)),
    "add_generation_prompt": Refused(reason=_TEMPLATE, neutral=(True,)),
    "continue_final_message": Refused(reason=_TEMPLATE, neutral=(False,)),
    "documents": Refused(reason="put their text into a message", neutral=([],)),
    "images": Refused(reason="images are not supported; send text", neutral=([],)),
    "suffix": Refused(reason="text is not filled in before a suffix", neutral=("",)),
    "echo": Refused(reason="the prompt is not repeated in the answer", neutral=(False,)),
    "lora": Refused(reason="use adapter on /generate", neutral=([],)),
    # the shape of the answer
    "logprob_token_ids": Refused(reason="use top_logprobs", neutral=([],)),
    "n_probs": Refused(reason="use logprobs and top_logprobs", neutral=(0,)),
    "prompt_logprobs": Refused(reason="the prompt's tokens are not rated", neutral=(0,)),
    "return_token_ids": Refused(reason="token numbers are not sent", neutral=(False,)),
    "return_tokens": Refused(reason="token numbers are not sent", neutral=(False,)),
}
"""Of chat completions and `/generate`."""

MESSAGE_REFUSED: dict[str, Refused] = {
    "audio": Refused(reason="audio is not supported, send its transcript"),
}
"""Of a message in the history."""

EMBEDDINGS_REFUSED: dict[str, Refused] = {
    "truncate_prompt_tokens": Refused(reason="texts are never cut; split them"),
    "truncate": Refused(reason="texts are never cut; split them", neutral=(False,)),
    "embd_normalize": Refused(reason="vectors have length 1", neutral=(2,)),
    "normalize": Refused(reason="vectors have length 1", neutral=(True,)),
    "input_type": Refused(reason="the model reads all texts alike; leave it out"),
    "task": Refused(reason="the model reads all texts alike; leave it out"),
}
"""Of embeddings, in the words of other servers."""


def check_parameters(given: Mapping[str, Any], refused: Mapping[str, Refused]) -> None:
    """Raise `ValueError`, which begins with its name, for the first field whose value is refused."""
    for name, value in given.items():
        rule = refused.get(name)
        if rule is not None and rule.refuses(value):
            message = f"{name}: {rule.reason}"
            raise ValueError(message)
