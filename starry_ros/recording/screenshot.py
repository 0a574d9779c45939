"""A picture of a page in a browser without a screen: how the pictures of the browser view in docs/ are made."""

from __future__ import annotations

import shutil
from pathlib import Path

from starry_ros.errors import RuntimeUnavailable

COLOURS = 256
LOAD_MS, SHOT_MS = 60_000, 240_000
SOFTWARE_GL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
INSTALL = "pip install playwright, and a Chromium: playwright install chromium, or the distribution's"


def screenshot(address: str, out: Path, wait_s: float, size_px: tuple[int, int], *, whole: bool = False) -> None:
    """Open a page, wait, and write what it shows as a PNG of few colours; `whole` takes the page to its end.

    RuntimeUnavailable without Playwright or a browser. Drawing is done in software, so it needs no GPU, only patience.
    """
    try:
        from PIL import Image
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise RuntimeUnavailable("screenshot", "no browser can be driven from Python", fix=INSTALL) from error
    out.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as player:
        try:
            browser = player.chromium.launch(
                executable_path=shutil.which("chromium"), args=[*SOFTWARE_GL, "--no-sandbox"]
            )
            page = browser.new_page(viewport={"width": size_px[0], "height": size_px[1]}, color_scheme="dark")
            page.goto(address, timeout=LOAD_MS)
            page.wait_for_timeout(1000 * wait_s)
            page.screenshot(path=out, full_page=whole, timeout=SHOT_MS)
            browser.close()
        except Error as error:
            raise RuntimeUnavailable("screenshot", str(error).splitlines()[0], fix=INSTALL) from error
    with Image.open(out) as picture:
        picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)
