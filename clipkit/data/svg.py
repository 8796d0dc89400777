"""Icons of the iconify sets as documents, and documents as pixels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["rasterise", "svg_document"]


def svg_document(data: dict[str, Any], name: str, size: int) -> str:
    """An icon of a set as a document: its own view box, else the set's, else 16 x 16; drawn ``size`` pixels square."""
    icon = data["icons"][name]
    left, top = (icon.get(key, data.get(key, 0)) for key in ("left", "top"))
    width, height = (icon.get(key, data.get(key, 16)) for key in ("width", "height"))
    space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    box = f'width="{size}" height="{size}" viewBox="{left} {top} {width} {height}"'
    return f"<svg {space} {box}>{icon['body']}</svg>"


def rasterise(svg: str, size: int) -> Image.Image:
    """A document drawn on white, RGB.

    Raises:
        ModuleNotFoundError: The renderer is not installed.
        ValueError: The document cannot be drawn at this size.
    """
    from PIL import Image

    try:
        import resvg_py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "rendering needs resvg-py: pip install 'clipkit-experiments[build]'", name="resvg_py"
        ) from error
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="#ffffff", skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    if image.size != (size, size):
        raise ValueError(f"rendered {image.size} instead of {size} x {size}: {svg[:200]}")
    return image
