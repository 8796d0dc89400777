"""Captions to ids, whatever the tokenizer's own tokens."""

from __future__ import annotations

import copy
import pickle

import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from clipkit.tokens import Tokenizer, read_tokenizer
from clipkit.types import ArgumentError


def made(words, template=None, special=(), pad=None):
    """A word-level tokenizer as JSON text."""
    vocabulary = {word: i for i, word in enumerate([*special, *words])}
    rust = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=words[0]))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    rust.add_special_tokens(list(special))
    if template:
        pairs = [(token, vocabulary[token]) for token in special if token in template]
        rust.post_processor = processors.TemplateProcessing(single=template, special_tokens=pairs)
    if pad:
        rust.enable_padding(pad_id=vocabulary[pad], pad_token=pad)
    return rust.to_str()


def test_the_shipped_one():
    words = Tokenizer("emoji")
    tokens, mask = words(["a dog", "grinning face with big eyes"])
    assert tokens.dtype == torch.int64 and mask.dtype == torch.bool
    assert tokens[:, 0].tolist() == [1, 1]
    assert [int(row[flags][-1]) for row, flags in zip(tokens, mask, strict=True)] == [2, 2]
    assert (tokens[~mask] == words.pad_id).all() and not mask.all()
    assert (words.pad_id, words.end_id, words.vocab_size) == (0, 2, 8192)
    assert words.decode(tokens[0].tolist()) == "a dog"


def test_longest_and_max_length():
    texts = ["a", "a b c"]
    short, flags = Tokenizer("emoji", 20)(texts)
    long, more = Tokenizer("emoji", 20, "max_length")(texts)
    assert short.shape == (2, int(flags.sum(1).max())) and long.shape == (2, 20)
    assert torch.equal(long[:, : short.shape[1]], short) and (long[:, short.shape[1] :] == 0).all()
    assert torch.equal(more.sum(1), flags.sum(1))


def test_a_multiple_of_8_that_does_not_go_beyond_the_context():
    for text, wanted in (("a", 8), ("a b c d e f g h", 16), ("a " * 50, 20)):
        tokens, mask = Tokenizer("emoji", 20, "multiple_of_8")([text])
        exact, flags = Tokenizer("emoji", 20)([text])
        assert tokens.shape == (1, wanted) and torch.equal(tokens[:, : exact.shape[1]], exact)
        assert int(mask.sum()) == int(flags.sum())


def test_cut_captions_keep_their_end():
    words = Tokenizer("emoji", 6)
    tokens, mask, cut = words.encode(["one two three four five six seven", "one", ""])
    assert tokens.shape == (3, 6) and mask[0].all()
    assert tokens[0, 0] == 1 and tokens[0, -1] == 2
    assert cut.tolist() == [True, False, False]


def test_a_caption_of_no_tokens_still_has_one_to_attend_to():
    words = Tokenizer(made(["what", "dog"]))
    tokens, mask = words(["", "dog dog"])
    assert tokens.tolist() == [[0, 0], [1, 1]]
    assert mask.tolist() == [[True, False], [True, True]]
    assert words([""])[0].shape == (1, 1)


def test_the_end_token_is_the_tokenizers_own_not_the_largest_id():
    json = made(["what", "dog", "zebra"], "<s> $A </s>", special=("<pad>", "<s>", "</s>"), pad="<pad>")
    words = Tokenizer(json)
    assert (words.end_id, words.pad_id, words.vocab_size) == (2, 0, 6)
    assert words(["zebra"])[0].tolist() == [[1, 5, 2]]


def test_no_end_token():
    assert Tokenizer(made(["what", "dog"])).end_id is None
    assert Tokenizer(made(["what", "dog"], "<s> $A", special=("<s>",))).end_id is None


def test_the_padding_id_of_the_file():
    words = Tokenizer(made(["what", "dog"], special=("<s>", "<pad>"), pad="<pad>"))
    assert words.pad_id == 1
    assert words(["dog", "dog dog"])[0].tolist() == [[3, 1], [3, 3]]


def test_a_vocabulary_with_holes():
    rust = tokenizers.Tokenizer(models.WordLevel({"what": 0, "dog": 9}, unk_token="what"))
    assert Tokenizer(rust.to_str()).vocab_size == 10


def test_from_a_file_a_folder_and_a_text(tmp_path):
    json = made(["what", "dog"], "<s> $A </s>", special=("<s>", "</s>", "<pad>"))
    (tmp_path / "mine.json").write_text(json, encoding="utf-8")
    folder = tmp_path / "hub"
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(json), pad_token="<pad>", eos_token="</s>"
    )
    fast.save_pretrained(folder)
    for name in (json, str(tmp_path / "mine.json"), str(folder)):
        words = Tokenizer(name)
        assert words(["dog"])[0].tolist() == [[0, 4, 1]]
        assert words.end_id == 1
    assert Tokenizer(str(folder)).pad_id == 2  # said only by the hub's own configuration


def test_truncation_of_the_file_does_not_count(tmp_path):
    rust = tokenizers.Tokenizer.from_str(made(["what", "dog"]))
    rust.enable_truncation(2, direction="left")
    PreTrainedTokenizerFast(tokenizer_object=rust).save_pretrained(tmp_path / "hub")
    for name in (rust.to_str(), str(tmp_path / "hub")):
        assert Tokenizer(name, 4)(["dog dog dog what what"])[0].tolist() == [[1, 1, 1, 0]]


def test_the_text_is_read_once_and_makes_the_same():
    words = Tokenizer("emoji")
    assert Tokenizer(words.json)(["a dog"])[0].tolist() == words(["a dog"])[0].tolist()
    assert read_tokenizer(words.json) == words.json


def test_copies_go_to_other_processes():
    words = Tokenizer("emoji", 9)
    assert words.end_id == 2
    for other in (copy.deepcopy(words), pickle.loads(pickle.dumps(words))):
        assert torch.equal(other(["a dog"])[0], words(["a dog"])[0])


@pytest.mark.parametrize(
    ("arguments", "argument", "message"),
    [
        (("no/such",), "tokenizer", "'no/such' is no tokenizer.json, no folder with one"),
        (("{}",), "tokenizer", "not the text of a tokenizer.json"),
        (("emoji", 2), "context_length", "2 leaves no room for a word beside the 2 tokens"),
        (("emoji", 0), "context_length", "0 leaves no room"),
        (("emoji", 77, "left"), "pad", "'left' is not one of `longest`, `multiple_of_8`, `max_length`"),
    ],
)
def test_what_is_refused(arguments, argument, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        Tokenizer(*arguments)
    assert caught.value.argument == argument


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="tokenizer"):
        Tokenizer(str(tmp_path))
