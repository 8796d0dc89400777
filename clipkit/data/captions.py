"""Which captions a row has, and how one of them is drawn."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from clipkit.data.columns import require_columns, stored
from clipkit.data.skips import Unusable
from clipkit.types import ArgumentError

__all__ = ["CaptionChoice", "choose_captions", "has_caption"]

CAPTION_COLUMNS = ("caption", "captions", "text", "txt", "title", "name")


class CaptionChoice(NamedTuple):
    """How one caption is made from a row that has several.

    Attributes:
        columns: Column to weight; a column holds a string or a list of strings.
        language_of: Caption column to the column that names each of its captions' language, for the columns that
            ``languages`` is to filter.
        languages: The languages to draw from.
        templates: Frames with one ``{}``, drawn evenly; ``("{}",)`` for none.
    """

    columns: Mapping[str, float]
    language_of: Mapping[str, str] = {}
    languages: tuple[str, ...] = ()
    templates: tuple[str, ...] = ("{}",)

    def candidates(self, row: Mapping[str, Any]) -> dict[str, list[str]]:
        """Column to its captions in this row; columns with none are left out."""
        found = {column: self._of_column(row, column) for column in self.columns}
        return {column: captions for column, captions in found.items() if captions}

    def draw(self, captions: Mapping[str, list[str]], rng: np.random.Generator | None) -> str:
        """One caption: a column by weight, a caption of it, a template; the first of each where there is no ``rng``.

        Raises:
            Unusable: There is none to draw.
            UnicodeEncodeError: It is no text that UTF-8 can hold, which the escapes of JSON can write.
        """
        if not captions:
            raise Unusable("no_caption", "it has no caption")
        if rng is None:
            return self._framed(next(iter(captions.values()))[0], 0.0)
        column, text, template = rng.random(3)
        texts = captions[self._draw_column(list(captions), column)]
        return self._framed(texts[int(text * len(texts))], template)

    def _framed(self, text: str, template: float) -> str:
        text.encode()
        return self.templates[int(template * len(self.templates))].replace("{}", text)

    def _draw_column(self, columns: list[str], place: float) -> str:
        place *= sum(self.columns[column] for column in columns)
        for column in columns:
            place -= self.columns[column]
            if place < 0:
                return column
        return columns[-1]

    def _of_column(self, row: Mapping[str, Any], column: str) -> list[str]:
        texts = _listed(row[column])
        if texts and column in self.language_of:
            spoken = _listed(row[self.language_of[column]])
            if len(spoken) != len(texts):
                raise Unusable("bad_text", f"it has {len(texts)} captions, but the languages of {len(spoken)}")
            texts = [text for text, language in zip(texts, spoken, strict=True) if language in self.languages]
        return [text for text in texts if text and not text.isspace()]


def choose_captions(
    rows: Dataset,
    caption: str | Sequence[str] | Mapping[str, float] | None = None,
    language_column: str | None = None,
    languages: Sequence[str] = (),
    templates: Sequence[str] = ("{}",),
    whole: bool = True,
) -> CaptionChoice:
    """Check what was asked for against the data.

    Args:
        rows: The data set.
        caption: A column, several, or column to weight; None for the first usual one.
        language_column: Column parallel to one or more of the caption columns.
        languages: Languages to draw from; empty for all.
        templates: Frames with one ``{}``.
        whole: Whether these are all rows; in the rest of a stream other languages may come.

    Raises:
        ArgumentError: For the argument at fault.
    """
    weights = _weights(rows, caption)
    _check_templates(templates)
    language_of = _language_of(rows, weights, language_column, languages, whole)
    return CaptionChoice(weights, language_of, tuple(languages), tuple(templates))


def has_caption(rows: Dataset, choice: CaptionChoice) -> NDArray[np.bool_]:
    """(N,) whether each row has a caption to draw."""
    found = np.zeros(len(rows), dtype=bool)
    for column in choice.columns:
        texts, language = stored(rows, column), choice.language_of.get(column)
        row = _row_of_each(texts)
        there = pc.fill_null(pc.greater(_lengths(_flat(texts)), 0), False)
        if language is not None:
            spoken = pc.is_in(_flat(stored(rows, language)), pa.array(choice.languages))
            there = pc.and_(there, spoken)
        found[row[np.asarray(there)]] = True
    return found


def _weights(rows: Dataset, caption: str | Sequence[str] | Mapping[str, float] | None) -> dict[str, float]:
    if caption is None:
        usual = [name for name in CAPTION_COLUMNS if name in rows.column_names and _holds_text(rows, name)]
        if not usual:
            found = ", ".join(rows.column_names)
            bare = set(rows.column_names) <= {"image", "label"}
            hint = "; a folder of images needs a metadata.csv with the columns file_name and caption" if bare else ""
            message = f"none of {', '.join(CAPTION_COLUMNS)} is a column of text (found {found}){hint}"
            raise ArgumentError("caption", message)
        caption = usual[0]
    names = [caption] if isinstance(caption, str) else caption
    weights = {k: float(v) for k, v in names.items()} if isinstance(names, Mapping) else dict.fromkeys(names, 1.0)
    require_columns(rows, weights, "caption")
    for name in weights:
        if not _holds_text(rows, name):
            raise ArgumentError("caption", f"{name!r} holds {stored(rows, name).type}, neither text nor lists of text")
    if not weights or min(weights.values()) <= 0:
        raise ArgumentError("caption", "give at least one column, and each a weight above 0")
    return weights


def _check_templates(templates: Sequence[str]) -> None:
    if not templates:
        raise ArgumentError("templates", 'give at least one, such as "{}"')
    for template in templates:
        if template.count("{}") != 1:
            raise ArgumentError("templates", f"{template!r} needs exactly one {{}} where the caption goes")


def _language_of(
    rows: Dataset, columns: Mapping[str, float], language_column: str | None, languages: Sequence[str], whole: bool
) -> dict[str, str]:
    if language_column is None:
        if languages:
            raise ArgumentError("languages", "name the column that holds each caption's language: `language_column`")
        return {}
    require_columns(rows, [language_column], "language_column")
    spoken = stored(rows, language_column)
    own = _row_of_each(spoken)
    parallel = [name for name in columns if np.array_equal(_row_of_each(stored(rows, name)), own)]
    if not parallel:
        wants = f"as many values in each row as one of {', '.join(columns)}"
        raise ArgumentError("language_column", f"{language_column!r} does not have {wants}")
    known = pc.unique(_flat(spoken)).to_pylist()
    for language in languages if whole else ():
        if language not in known:
            near = difflib.get_close_matches(language, filter(None, known), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            found = ", ".join(map(str, known))
            raise ArgumentError("languages", f"no caption is in {language!r}{hint} (found {found})")
    return dict.fromkeys(parallel, language_column) if languages else {}


def _holds_text(rows: Dataset, name: str) -> bool:
    kind = rows.features[name]
    if isinstance(kind, datasets.List | datasets.LargeList):
        kind = kind.feature
    return str(getattr(kind, "dtype", "")) in ("string", "large_string")


def _is_list(column: pa.ChunkedArray) -> bool:
    return isinstance(column.type, pa.ListType | pa.LargeListType)


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.list_flatten(column) if _is_list(column) else column


def _lengths(texts: Any) -> Any:
    """Length of each text, blanks around it not counted; in bytes where some are not UTF-8, which reading will tell."""
    try:
        return pc.utf8_length(pc.utf8_trim_whitespace(texts))
    except pa.ArrowInvalid:
        return pc.binary_length(texts)


def _row_of_each(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """The row that each value of ``_flat`` comes from."""
    if not _is_list(column):
        return np.arange(len(column))
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return np.repeat(np.arange(len(column)), lengths)


def _listed(value: Any) -> list[str | None]:
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(text is None or isinstance(text, str) for text in texts):
        raise Unusable("bad_text", f"it has {str(value)[:40]!r} for a text")
    return list(texts)
