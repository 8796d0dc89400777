"""The command ``clipkit``: finds the subcommand and leaves the rest to its file; imports nothing heavy by itself."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from clipkit.cli.explain import ConfigError, did_you_mean, nearest

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "fit": "train an experiment",
    "sweep": "train an experiment in several settings and seeds, and compare them",
    "validate": "run an experiment's validation, on a checkpoint too",
    "evaluate": "measure a checkpoint on tasks",
    "data": "build or check data sets",
    "bench": "measure loading, losses, steps and what is around them",
    "consolidate": "make one file of a sharded checkpoint",
    "replay": "hand metrics that were kept on disk to the tracking server",
}
"""Each is a module of this package with ``add_arguments(parser)`` and ``run(args)``."""

WIDTH = 100
"""Messages are wrapped at this many columns in a terminal; elsewhere they are one line."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one paragraph, without the usage; a misspelt option before a missing one."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, after a look at the options; a command with overrides or subcommands of its own looks later."""
        if self.get_default("overrides") is None and self._subparsers is None:
            known = [option for action in self._actions for option in action.option_strings]
            for word in [str(word).split("=")[0] for word in args or () if str(word).startswith("--")]:
                if word not in known:
                    near = nearest(word, known)
                    self.error(f"{word} is not known" + (f"; did you mean {near}?" if near else ""))
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Name the nearest choice, where argparse lists all."""
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"there is no {value}. {did_you_mean(value, list(action.choices))}")

    def error(self, message: str) -> NoReturn:
        """Print and exit with code 2."""
        stop = "" if message.endswith((".", "?")) else "."
        _complain(self.prog, f"{message}{stop} See {self.prog} --help.")
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: What follows ``clipkit``; the process's own arguments by default.

    Returns:
        0, 2 for a mistake in the command line or the configuration, or what the subcommand returns.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except SystemExit as stop:  # argparse: after help, or an error
        return stop.code if isinstance(stop.code, int) else 2 if stop.code else 0


def _run(words: list[str]) -> int:
    if not words or words[0].startswith("-"):
        return _without_command(words)
    command = words[0]
    prog = f"clipkit {command}"
    if command not in COMMANDS:
        _complain("clipkit", f"there is no command {command}. {did_you_mean(command, list(COMMANDS))}")
        return 2
    module = import_module(f"clipkit.cli.{command}")
    parser = _Parser(prog=prog, description=_sentence(COMMANDS[command]), allow_abbrev=False)
    module.add_arguments(parser)
    try:
        return int(module.run(_parse(parser, words[1:])))
    except ConfigError as error:
        if os.environ.get("CLIPKIT_TRACEBACK"):
            traceback.print_exception(error)
        _complain(prog, str(error))
        return 2


def _without_command(words: list[str]) -> int:
    parser = _Parser(
        prog="clipkit",
        usage="clipkit COMMAND ...",
        description="Train, evaluate and ship models that learn vision from captions.",
        epilog="Try: clipkit fit -c emoji. Each command has its own --help.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"clipkit {_version()}")
    commands = parser.add_argument_group("commands")
    for name, purpose in COMMANDS.items():
        # shown like an option, but never parsed as one: whatever starts with a word goes to that command
        commands.add_argument(name, nargs="?", help=purpose)
    parser.parse_args(words)
    parser.print_help()
    return 0 if not words else 2


def _parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Parse a command's options; what is left over are overrides, where it takes any."""
    args, rest = parser.parse_known_args(words)
    if not rest:
        return args
    if hasattr(args, "overrides"):
        args.overrides = rest
        return args
    return parser.error(f"{rest[0]} is not known")


def _version() -> str:
    # the root package stands above this one: it is not imported, but it is always there
    return str(sys.modules[__name__.partition(".")[0]].__version__)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _complain(prog: str, message: str) -> None:
    text = f"{prog}: {message}"
    if sys.stderr.isatty():
        width = min(WIDTH, shutil.get_terminal_size().columns)
        text = textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
    print(text, file=sys.stderr)
