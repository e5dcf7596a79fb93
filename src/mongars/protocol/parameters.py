"""Request parameters that are not applied: ignored because the answer does not depend on them, or refused.

A parameter that affects the answer, and is not supported, is refused with HTTP status 400, unless its value
requests the default behaviour. Null is treated as absent. Names in none of these tables are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mongars.core.adapter_pin import BASE_NAMES

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
"""The parameters that are accepted and ignored, and why the answer does not depend on each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedParameter:
    """A request parameter that is not supported, and the `reason` for the error message.

    Values in `neutral` are accepted, because they request the default behaviour.
    """

    reason: str
    neutral: tuple[Any, ...] = ()
    harmless: Callable[[Any], bool] | None = None
    """Returns True for other values to accept, which cannot be listed in `neutral`; None: there are none."""

    def refuses(self, value: object) -> bool:
        """Whether a request is refused because this parameter has this value."""
        if self.harmless is not None and self.harmless(value):
            return False
        return value not in self.neutral


def _lets_the_model_choose(value: object) -> bool:
    """Whether `value`, a request's `tool_choice`, is of the form `allowed_tools` and has the mode `auto`.

    The model may then answer with text, without a tool call. False for every other form of `tool_choice`.
    """
    allowed = value.get("allowed_tools") if isinstance(value, dict) else None
    return isinstance(allowed, dict) and allowed.get("mode") == "auto"


_NO_TOOLS = "tools are not called yet; only 'auto', which may answer with text, and 'none' work"
_ONE_FORMAT = "not supported; use response_format with type json_schema"
_SAMPLER = "this sampler is not supported; leave it out"
_TEMPLATE = "the prompt is written by the model's own template; leave it out"
_NO_ADAPTERS = "the embedding model has no adapters; leave it out"
_ALIAS = "not a parameter here; use max_tokens"

GENERATION_REFUSED: dict[str, RefusedParameter] = {
    # tools
    "tool_choice": RefusedParameter(
        reason=_NO_TOOLS, neutral=("auto", "none"), harmless=_lets_the_model_choose
    ),
    "function_call": RefusedParameter(reason=_NO_TOOLS, neutral=("auto", "none")),
    # other media
    "modalities": RefusedParameter(
        reason="only text is generated: use ['text']", neutral=([], ["text"])
    ),
    "audio": RefusedParameter(reason="audio is not generated; leave it out"),
    "web_search_options": RefusedParameter(reason="the web is not searched; leave it out"),
    # formats, under the parameter names of other servers
    "grammar": RefusedParameter(reason=_ONE_FORMAT, neutral=("",)),
    "grammar_lazy": RefusedParameter(reason=_ONE_FORMAT, neutral=(False,)),
    "json_schema": RefusedParameter(reason=_ONE_FORMAT),
    "format": RefusedParameter(reason=_ONE_FORMAT, neutral=("",)),
    "guided_json": RefusedParameter(reason=_ONE_FORMAT),
    "guided_regex": RefusedParameter(reason=_ONE_FORMAT),
    "guided_choice": RefusedParameter(reason=_ONE_FORMAT),
    "guided_grammar": RefusedParameter(reason=_ONE_FORMAT),
    "structured_outputs": RefusedParameter(reason=_ONE_FORMAT),
    # lengths, under the parameter names of other servers
    "n_predict": RefusedParameter(reason=_ALIAS, neutral=(-1,)),
    "num_predict": RefusedParameter(reason=_ALIAS, neutral=(-1,)),
    "max_new_tokens": RefusedParameter(reason=_ALIAS),
    "min_tokens": RefusedParameter(reason="answers have no least length", neutral=(0,)),
    "ignore_eos": RefusedParameter(
        reason="answers end where the model ends them", neutral=(False,)
    ),
    "stop_token_ids": RefusedParameter(reason="use stop, with texts", neutral=([],)),
    "include_stop_str_in_output": RefusedParameter(reason="not supported", neutral=(False,)),
    "bad_words": RefusedParameter(reason="use logit_bias", neutral=([],)),
    "allowed_token_ids": RefusedParameter(reason="use logit_bias", neutral=([],)),
    # samplers
    "best_of": RefusedParameter(reason="use n", neutral=(1,)),
    "use_beam_search": RefusedParameter(reason=_SAMPLER, neutral=(False,)),
    "length_penalty": RefusedParameter(reason=_SAMPLER, neutral=(1,)),
    "early_stopping": RefusedParameter(reason=_SAMPLER, neutral=(False,)),
    "typical_p": RefusedParameter(reason=_SAMPLER, neutral=(1,)),
    "tfs_z": RefusedParameter(reason=_SAMPLER, neutral=(1,)),
    "top_a": RefusedParameter(reason=_SAMPLER, neutral=(0,)),
    "top_n_sigma": RefusedParameter(reason=_SAMPLER, neutral=(-1,)),
    "mirostat": RefusedParameter(reason=_SAMPLER, neutral=(0,)),
    "xtc_probability": RefusedParameter(reason=_SAMPLER, neutral=(0,)),
    "dry_multiplier": RefusedParameter(reason=_SAMPLER, neutral=(0,)),
    "dynatemp_range": RefusedParameter(reason=_SAMPLER, neutral=(0,)),
    "samplers": RefusedParameter(reason=_SAMPLER, neutral=([],)),
    "repeat_last_n": RefusedParameter(
        reason="the range of repeat_penalty is the engine's own; only 64 tokens work", neutral=(64,)
    ),
    # prompts
    "chat_template": RefusedParameter(reason=_TEMPLATE),
    "chat_template_kwargs": RefusedParameter(reason=_TEMPLATE, neutral=({},)),
    "add_generation_prompt": RefusedParameter(reason=_TEMPLATE, neutral=(True,)),
    "continue_final_message": RefusedParameter(reason=_TEMPLATE, neutral=(False,)),
    "documents": RefusedParameter(reason="put their text into a message", neutral=([],)),
    "images": RefusedParameter(reason="images are not supported; send text", neutral=([],)),
    "suffix": RefusedParameter(reason="text is not filled in before a suffix", neutral=("",)),
    "echo": RefusedParameter(reason="the prompt is not repeated in the answer", neutral=(False,)),
    "lora": RefusedParameter(reason="use adapter", neutral=([],)),
    # the form of the answer
    "logprob_token_ids": RefusedParameter(reason="use top_logprobs", neutral=([],)),
    "n_probs": RefusedParameter(reason="use logprobs and top_logprobs", neutral=(0,)),
    "prompt_logprobs": RefusedParameter(reason="the prompt's tokens are not rated", neutral=(0,)),
    "return_token_ids": RefusedParameter(reason="token numbers are not sent", neutral=(False,)),
    "return_tokens": RefusedParameter(reason="token numbers are not sent", neutral=(False,)),
}
"""The refused parameters of chat completions, completions and `/generate`, by name."""

MESSAGE_REFUSED: dict[str, RefusedParameter] = {
    "audio": RefusedParameter(reason="audio is not supported, send its transcript"),
}
"""The refused fields of a message, by name."""

EMBEDDINGS_REFUSED: dict[str, RefusedParameter] = {
    "truncate_prompt_tokens": RefusedParameter(reason="texts are never cut; split them"),
    "truncate": RefusedParameter(reason="texts are never cut; split them", neutral=(False,)),
    "embd_normalize": RefusedParameter(reason="vectors have length 1", neutral=(2,)),
    "normalize": RefusedParameter(reason="vectors have length 1", neutral=(True,)),
    "input_type": RefusedParameter(reason="the model reads all texts alike; leave it out"),
    "task": RefusedParameter(reason="the model reads all texts alike; leave it out"),
    "adapter": RefusedParameter(reason=_NO_ADAPTERS, neutral=(*sorted(BASE_NAMES), {})),
    "lora": RefusedParameter(reason=_NO_ADAPTERS, neutral=([],)),
}
"""The refused parameters of embedding requests, under the names that other servers use for them."""

OLLAMA_EMBEDDINGS_REFUSED: dict[str, RefusedParameter] = {
    name: rule for name, rule in EMBEDDINGS_REFUSED.items() if name != "truncate"
}
"""The refused parameters of Ollama's `/api/embed` and `/api/embeddings`. `truncate` is ignored: a text that is too long is always refused."""


def check_parameters(given: Mapping[str, Any], refused: Mapping[str, RefusedParameter]) -> None:
    """Raise `ValueError` for the first request field in `given` that has a refused value.

    `refused`: the parameters that are not supported, by name. The message is the field's name and the reason.
    """
    for name, value in given.items():
        rule = refused.get(name)
        if rule is not None and rule.refuses(value):
            message = f"{name}: {rule.reason}"
            raise ValueError(message)
