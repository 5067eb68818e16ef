"""The picture of a page, drawn with Pillow: the page's name, icons in their boxes, labels beneath them."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from polyturn.envs.gui_lab.app import HEIGHT, ICON, WIDTH, Element, Page
from polyturn.envs.gui_lab.icons import picture
from polyturn.errors import BadInput, MissingPackage

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 200_704
"""The most pixels that the paper's model is shown."""
PAPER, INK, VEIL = (250, 250, 248), (20, 20, 20), (60, 60, 70)
_FINE = 3
"""Icons are drawn this much larger and shrunk, for smooth edges."""


def shown_size(max_pixels: int | None = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of the picture: the canvas, shrunk evenly to at most ``max_pixels``; None = in full.

    Raises: BadInput below 10,000 pixels, where nothing can be read.

    >>> shown_size(), shown_size(None)
    ((304, 659), (1179, 2556))
    """
    if max_pixels is None or max_pixels >= WIDTH * HEIGHT:
        return WIDTH, HEIGHT
    if max_pixels < 10_000:
        raise BadInput(f"max_pixels is {max_pixels}; expected at least 10000, or None for the whole canvas")
    scale = (max_pixels / (WIDTH * HEIGHT)) ** 0.5
    return int(WIDTH * scale), int(HEIGHT * scale)


def drawn(page: Page, *, max_pixels: int | None = MAX_PIXELS) -> Image.Image:
    """The picture of a page in RGB. The same page gives the same picture everywhere (the font is Pillow's own).

    Raises: MissingPackage without Pillow.
    """
    size = shown_size(max_pixels)
    scale = size[0] / WIDTH
    image: Image.Image
    image, pen, font = canvas(size, PAPER)
    pen.text((size[0] / 2, 70 * scale), page.name, INK, font(round(64 * scale)), anchor="mm")
    dark = False
    for element in page.elements:
        if element.kind == "veil":
            dark = True
            pen.rectangle((0, 0, *size), VEIL)
            pen.text((size[0] / 2, 70 * scale), page.name, PAPER, font(round(64 * scale)), anchor="mm")
        else:
            _place(image, pen, element, scale, dark=dark)
    return image


def _place(image: Any, pen: Any, element: Element, scale: float, *, dark: bool) -> None:
    left, top, right, bottom = (round(edge * scale) for edge in element.box)
    image.paste(_icon(element.name, (right - left, bottom - top), VEIL if dark else PAPER), (left, top))
    font = _pillow()[2](max(8, round(34 * scale)))
    ink, at = PAPER if dark else INK, ((left + right) / 2, bottom + 2 * scale)
    pen.text(at, element.name.replace("-", "\n", 1), ink, font, anchor="ma", align="center", spacing=1)


@lru_cache(maxsize=4096)
def _icon(name: str, size: tuple[int, int], ground: tuple[int, int, int]) -> Any:
    """One icon in its box."""
    pillow = _pillow()[0]
    wide, high = size[0] * _FINE, size[1] * _FINE
    image, pen, _ = canvas((wide, high), ground)
    colour, polygons = picture(name)
    for polygon in polygons:
        pen.polygon([(x * wide, y * high) for x, y in polygon], colour)
    return image.resize(size, pillow.Resampling.BOX)


def png(image: Image.Image) -> bytes:
    """The bytes of a picture as a PNG file, quickly compressed."""
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def whole_icon(name: str) -> Image.Image:
    """One icon in full size, as the export keeps it."""
    image: Image.Image = _icon(name, (ICON, ICON), PAPER)
    return image


def canvas(size: tuple[int, int], ground: tuple[int, int, int]) -> tuple[Any, Any, Any]:
    """An empty picture, the pen that draws on it, and Pillow's own font by size. Raises: MissingPackage."""
    pillow, draw, font = _pillow()
    image = pillow.new("RGB", size, ground)
    return image, draw.Draw(image), font


@lru_cache(maxsize=1)
def _pillow() -> tuple[Any, Any, Any]:
    """Pillow's modules Image and ImageDraw, and its own font by size."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingPackage("pillow", "gui") from error

    @lru_cache(maxsize=32)
    def font(size: int) -> Any:
        return ImageFont.load_default(size)

    return Image, ImageDraw, font
