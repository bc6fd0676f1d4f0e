"""Which tokens of a row are learned."""

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from finetune.trainer.examples import IGNORED, Example, Examples
from gpus.agent.engines import toy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SYSTEM = {"role": "system", "content": "Be kind."}
ASK, ANSWER = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello!"}
ASK_MORE, ANSWER_MORE = {"role": "user", "content": "And?"}, {"role": "assistant", "content": "Ünd größer."}
MARKED = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# As some do: an answer that is asked for begins with an empty thought, and old thoughts are dropped.
THINKING = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['role'] == 'assistant' and not loop.last %}{{ message['content'].split('</think>')[-1] }}"
    "{% else %}{{ message['content'] }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def words() -> PreTrainedTokenizerFast:
    return toy.tokenizer()


def example(words: Any, row: dict[str, Any], form: str = "chat", max_length: int = 10_000) -> Example:
    made = Examples(words, form=form, max_length=max_length)
    (found,) = made.of([row])
    return found


def learned(words: Any, found: Example) -> str:
    """The pieces that are learned, with a bar between them."""
    pieces, ids = [], []
    for token, label in zip(found.ids, found.labels, strict=True):
        assert label in (IGNORED, token)
        if label == IGNORED and ids:
            pieces.append(words.decode(ids))
            ids = []
        elif label != IGNORED:
            ids.append(label)
    return "|".join([*pieces, words.decode(ids)] if ids else pieces)


def test_answers_are_learned_with_their_ends_and_nothing_else(words: Any) -> None:
    found = example(words, {"messages": [SYSTEM, ASK, ANSWER, ASK_MORE, ANSWER_MORE]})
    assert learned(words, found) == "Hello!<|end|>|Ünd größer.<|end|>"
    assert words.decode(found.ids) == (
        "<|system|>Be kind.<|end|><|user|>Hi?<|end|><|assistant|>Hello!<|end|>"
        "<|user|>And?<|end|><|assistant|>Ünd größer.<|end|>"
    )


def test_an_answer_without_weight_is_read_and_not_learned(words: Any) -> None:
    messages = [ASK, ANSWER | {"weight": 0}, ASK_MORE, ANSWER_MORE | {"weight": 1}]
    assert learned(words, example(words, {"messages": messages})) == "Ünd größer.<|end|>"


def test_the_marks_of_a_template_are_followed(words: Any) -> None:
    words.chat_template = MARKED
    messages = [SYSTEM, ASK, ANSWER, ASK_MORE, ANSWER_MORE]
    found = example(words, {"messages": messages})
    assert learned(words, found) == "Hello!<|end|>|Ünd größer.<|end|>"


def test_weights_count_with_a_templates_marks_too(words: Any) -> None:
    words.chat_template = MARKED
    messages = [ASK, ANSWER | {"weight": 0}, ASK_MORE, ANSWER_MORE]
    assert learned(words, example(words, {"messages": messages})) == "Ünd größer.<|end|>"


def test_marks_and_differences_agree(words: Any) -> None:
    row = {"messages": [SYSTEM, ASK, ANSWER, ASK_MORE, ANSWER_MORE]}
    plain = example(words, row)
    words.chat_template = MARKED
    assert example(words, row) == plain


def test_a_template_that_drops_old_thoughts_teaches_the_last_answer(words: Any) -> None:
    words.chat_template = THINKING
    thought = {"role": "assistant", "content": "hm</think>Hello!"}
    found = example(
        words, {"messages": [ASK, thought, ASK_MORE, {"role": "assistant", "content": "so</think>Fine."}]}
    )
    assert learned(words, found) == "so</think>Fine.<|end|>"
    assert "hm" not in words.decode(found.ids)


def test_a_tokenizer_without_a_template_gets_plain_lines(words: Any) -> None:
    words.chat_template = None
    found = example(words, {"messages": [ASK, ANSWER]})
    assert words.decode(found.ids) == "user: Hi?\nassistant: Hello!\n"
    assert learned(words, found) == "Hello!\n"


def test_a_completion_is_learned_to_its_end(words: Any) -> None:
    found = example(words, {"prompt": "1+1=", "completion": "2"}, "completion")
    assert learned(words, found) == "2<|end|>"


def test_an_instruction_is_asked_as_in_a_chat(words: Any) -> None:
    row = {"instruction": "Add.", "input": "1, 2", "output": "3"}
    found = example(words, row, "instruction")
    assert words.decode(found.ids) == "<|user|>Add.\n\n1, 2<|end|><|assistant|>3<|end|>"
    assert learned(words, found) == "3<|end|>"
    words.chat_template = None
    found = example(words, row, "instruction")
    assert words.decode(found.ids) == "### Instruction:\nAdd.\n\n1, 2\n\n### Response:\n3<|end|>"
    assert learned(words, found) == "3<|end|>"


def test_of_a_text_everything_is_learned(words: Any) -> None:
    assert learned(words, example(words, {"text": "Once."}, "text")) == "Once.<|end|>"


def test_a_tokenizer_that_begins_texts_with_a_mark_does_so_here_too() -> None:
    words = _merging()
    found = example(words, {"text": "ab"}, "text")
    assert words.convert_ids_to_tokens(found.ids) == ["<s>", "ab", "</s>"]
    assert found.labels[0] == IGNORED


def test_a_token_never_lies_across_the_border_of_an_answer() -> None:
    """`ab` is one token; an answer `b` to `a` is a token of its own, as it will be when it is given."""
    words = _merging()
    found = example(words, {"prompt": "a", "completion": "b"}, "completion")
    assert words.convert_ids_to_tokens(found.ids) == ["<s>", "a", "b", "</s>"]
    assert found.labels == [IGNORED, IGNORED, *found.ids[2:]]


def _merging() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, processors

    vocabulary = {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "ab": 4}
    bare = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    bare.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bare, bos_token="<s>", eos_token="</s>")


def test_long_rows_are_cut_and_counted_and_those_without_an_answer_left_out(words: Any) -> None:
    made = Examples(words, form="completion", max_length=8)
    rows = [
        {"prompt": "123", "completion": "456789"},
        {"prompt": "123456789", "completion": "x"},
        {"prompt": "1", "completion": ""},
    ]
    found = list(made.of(rows))
    assert [words.decode(each.ids) for each in found] == ["12345678", "1<|end|>"]
    assert (made.cut, made.skipped) == (2, 1)
