"""Role strings read off chat templates, whatever family they come from."""

import pytest

from limner.document.document import Document, Text
from limner.tokens.template import MarkupPiece, Template, TextPiece
from limner.tokens.tokenizer import CHAT_TEMPLATE, byte_tokenizer

LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|header|>' + message['role'] + '<|/header|>\n\n' }}{{ message['content'] | trim + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\n\n' }}{% endif %}"
)
VICUNA = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + ' ' }}"
    "{% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    + CHAT_TEMPLATE
)
SHOUTING = "{% for message in messages %}{{ message['content'] | upper }}{% endfor %}"
BACKWARDS = "{% for message in messages | reverse %}{{ message['content'] + '|' }}{% endfor %}"
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<turn>' + role + '\n' + message['content'] | trim + '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set loop_messages = messages %}{% set system = '' %}{% endif %}{{ bos_token }}"
    "{% for message in loop_messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)


def _template(chat_template: str, *, bos: str = "<|endoftext|>", system: str | None = None) -> Template:
    tokenizer = byte_tokenizer().tokenizer
    tokenizer.chat_template = chat_template
    tokenizer.bos_token = bos
    return Template.from_tokenizer(tokenizer, system=system)


def _written(template: Template, document: Document, *, reply: bool = False) -> str:
    return "".join(piece.text for piece in template.pieces(document, reply=reply))


CHAT = [
    ("system", "Be brief."),
    ("user", "Hi."),
    ("assistant", "Ho."),
    ("user", "He?"),
    ("assistant", "Ha."),
]


@pytest.mark.parametrize("chat_template", [CHAT_TEMPLATE, LLAMA3, VICUNA, DEFAULT_SYSTEM])
@pytest.mark.parametrize("first", [0, 1])
def test_pieces_say_what_the_tokenizers_own_template_says(chat_template: str, first: int) -> None:
    tokenizer = byte_tokenizer().tokenizer
    tokenizer.chat_template = chat_template
    tokenizer.bos_token = "<|endoftext|>"
    turns = CHAT[first:]
    messages = [{"role": role, "content": text} for role, text in turns]
    ours = _written(Template.from_tokenizer(tokenizer), Document.chat(turns))
    assert ours == tokenizer.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize("chat_template", [CHAT_TEMPLATE, LLAMA3, DEFAULT_SYSTEM])
def test_a_reply_opens_as_the_tokenizers_generation_prompt_does(chat_template: str) -> None:
    tokenizer = byte_tokenizer().tokenizer
    tokenizer.chat_template = chat_template
    tokenizer.bos_token = "<|endoftext|>"
    ours = _written(Template.from_tokenizer(tokenizer), Document.chat(CHAT[:2]), reply=True)
    messages = [{"role": role, "content": text} for role, text in CHAT[:2]]
    assert ours == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_a_default_system_text_is_found_and_can_be_dropped() -> None:
    assert _template(DEFAULT_SYSTEM).system == "Be kind."
    assert _template(DEFAULT_SYSTEM, system="").system == ""
    assert _template(CHAT_TEMPLATE).system == ""
    assert _template(VICUNA).system == ""


def test_bos_begins_the_document_once_and_is_no_part_of_the_roles() -> None:
    template = _template(LLAMA3)
    assert template.begin == "<|endoftext|>"
    assert "<|endoftext|>" not in template.roles["system"].prefix
    assert template.roles["assistant"].stop == "<|im_end|>"
    assert _written(template, Document.page(["x"])) == "<|endoftext|>x<|im_end|>"


@pytest.mark.parametrize("chat_template", [SHOUTING, BACKWARDS])
def test_a_template_that_cannot_be_cut_is_refused(chat_template: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be read as role strings\nhint: pass a Template"):
        _template(chat_template)


@pytest.mark.parametrize("chat_template", [GEMMA, LLAMA2])
def test_a_family_without_a_system_role_takes_it_into_the_users_first_turn(chat_template: str) -> None:
    tokenizer = byte_tokenizer().tokenizer
    tokenizer.chat_template, tokenizer.bos_token = chat_template, "<|endoftext|>"
    template = Template.from_tokenizer(tokenizer)
    plain = [{"role": role, "content": text} for role, text in CHAT[1:]]
    assert _written(template, Document.chat(CHAT[1:])) == tokenizer.apply_chat_template(plain, tokenize=False)
    said = _written(template, Document.chat(CHAT))
    if chat_template is LLAMA2:
        messages = [{"role": role, "content": text} for role, text in CHAT]
        assert said == tokenizer.apply_chat_template(messages, tokenize=False)
    else:
        assert "<turn>user\nBe brief.\n\nHi.<end>" in said
    with pytest.raises(ValueError, match=r"no system role of its own\nhint: say it once"):
        _written(template, Document.chat([*CHAT[1:3], CHAT[0]]))


def test_a_tokenizer_without_a_template_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no chat template\nhint: "):
        _template("")


def test_only_assistant_and_page_text_and_their_stop_are_trained() -> None:
    template = _template(CHAT_TEMPLATE)
    chat = Document.chat([*CHAT[:3], ("assistant", [Text("quiet", train=False)])])
    trained = [piece.text for piece in template.pieces(chat) if piece.train]
    assert trained == ["Ho.", "<|im_end|>", "<|im_end|>"]
    page = list(template.pieces(Document.page(["x"])))
    assert page == [TextPiece("x", True), MarkupPiece("<|im_end|>", True)]
