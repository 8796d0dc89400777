from __future__ import annotations

import pytest

from clipkit.cli.explain import ConfigError
from clipkit.cli.overrides import Override, parse_overrides


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data.batch_size=64"], [(("data", "batch_size"), 64)]),
        (["--data.batch_size", "64"], [(("data", "batch_size"), 64)]),
        (["data.batch_size=64"], [(("data", "batch_size"), 64)]),
        (["--model.bias", "-10"], [(("model", "bias"), -10)]),
        (["--seed_everything", "1", "model.x=a=b"], [(("seed_everything",), 1), (("model", "x"), "a=b")]),
        (["--trainer.callbacks.0.mode=max"], [(("trainer", "callbacks", "0", "mode"), "max")]),
        (["--data.init_args.x=1"], [(("data", "x"), 1)]),
        (["--data.x="], [(("data", "x"), None)]),
        (["--data.x=[1,\n2]"], [(("data", "x"), [1, 2])]),
    ],
)
def test_the_three_ways_to_write_one(words, expected):
    assert parse_overrides(words) == [Override(*pair) for pair in expected]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.batch_size"], "--data.batch_size needs a value: --data.batch_size=VALUE."),
        (["--data.batch_size", "--model.lr=1"], "--data.batch_size needs a value"),
        (["--trianer.max_epochs=1"], "--trianer.max_epochs is not known. Did you mean --trainer.max_epochs?"),
        (["--resum", "x"], "--resum is not known. Did you mean --resume?"),
        (["-d"], "-d is no option of this command"),
        (["emoji"], "emoji stands alone; an experiment is given with -c emoji"),
        (["--data..x=1"], "--data..x=1 is no option"),
    ],
)
def test_words_that_are_none(words, message):
    with pytest.raises(ConfigError) as caught:
        parse_overrides(words)
    assert str(caught.value).startswith("command line: ")
    assert message in str(caught.value)
