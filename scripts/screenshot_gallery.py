"""Photograph a gallery page for the README: `python scripts/screenshot_gallery.py GALLERY.html OUT.png [--dark]`.

It needs the Python package playwright, and Chromium or Chrome on the PATH.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
MAX_BYTES = 300_000  # more would slow down the page that shows it


def main() -> int:
    """Write the picture; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gallery", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--size", default="1280x800", help="of the window, in CSS pixels")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--keys", nargs="*", default=[], help="to press first, as `j` or `Enter`")
    options = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"none of {', '.join(BROWSERS)} is installed", file=sys.stderr)
        return 1
    save(photograph(options, browser), options.output)
    return 0


def photograph(options: argparse.Namespace, browser: str) -> bytes:
    """The window of the page as a PNG, once its pictures are there."""
    width, height = map(int, options.size.split("x"))
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=[*FLAGS])
        page = chromium.new_page(
            viewport={"width": width, "height": height}, color_scheme="dark" if options.dark else "light"
        )
        page.goto(options.gallery.resolve().as_uri())
        for key in options.keys:
            page.keyboard.press(key)
        page.evaluate("Promise.all([...document.images].map((image) => image.decode())).then(() => 0)")
        picture = page.screenshot(animations="disabled")
        chromium.close()
    return picture


def save(png: bytes, path: Path) -> None:
    """Write the PNG, with a palette if it is large."""
    with Image.open(io.BytesIO(png)) as image:
        shown = image.convert("RGB")
        shown.save(path, optimize=True)
        if path.stat().st_size > MAX_BYTES:
            shown.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
