"""Small tokenizers with chat templates in the manner of each family.

The templates are worded here; what they do with turns is what the published ones do:
ChatML with (Qwen2.5) and without (Qwen3-2507) a system turn of its own, an empty
thought when thinking is off (Qwen3 hybrids), headers, a date and trimming (Llama 3).
"""

import json
from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from reskill_jax.policy.tokenizer import train_tokenizer

TEXTS = ["You see a mug 1 on a shelf 2. <action>go to shelf 2</action> system user"] * 3

_CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
"""
QWEN3_2507 = _CHATML + "{%- endif %}"
QWEN25 = (
    "{%- if messages[0].role != 'system' %}"
    "{{- '<|im_start|>system\\nBe a good assistant.<|im_end|>\\n' }}{%- endif %}"
    + QWEN3_2507
)
QWEN3 = (
    _CHATML
    + """\
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
)
LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{{- 'Today is: ' + date_string + '\\n\\n<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
    {{- message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

_HEADERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
_WRAPPED = {"__type": "AddedToken", "content": "<|endoftext|>", "special": True}
# template, token that ends a turn, settings
FAMILIES = {
    "Qwen3-2507": (QWEN3_2507, "<|im_end|>", {"pad_token": "<|endoftext|>"}),
    "Qwen3": (QWEN3, "<|im_end|>", {"pad_token": "<|endoftext|>"}),
    "Qwen2.5": (QWEN25, "<|im_end|>", {"pad_token": _WRAPPED}),
    "Llama 3": (LLAMA3, "<|eot_id|>", {"bos_token": "<|begin_of_text|>"}),
}


def write_tokenizer(directory: Path, family: str, template_file: bool = False) -> None:
    """Write a tokenizer as a model of the family ships it."""
    template, end, settings = FAMILIES[family]
    train_tokenizer(TEXTS, 300).save(directory)
    path = directory / "tokenizer.json"
    backend = Backend.from_file(str(path))
    special = [AddedToken(name, special=True) for name in (*_HEADERS, "<|eot_id|>")]
    backend.add_special_tokens(special)
    backend.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
    backend.save(str(path))
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        "chat_template": template,
        **settings,
    }
    if template_file:
        (directory / "chat_template.jinja").write_text(template)
        values["chat_template"] = "not this one"
    (directory / "tokenizer_config.json").write_text(json.dumps(values))
