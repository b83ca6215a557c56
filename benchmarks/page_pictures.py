"""Screenshots of the chat page, as a person sees it by day and by night: a story is asked for, then a picture is shown.

    limner serve limner-tiny --ui --port 8000
    python -m benchmarks page_pictures http://127.0.0.1:8000/ui/ docs

Needs playwright and a Chromium (`--browser` says which). Written: page_light.png, page_dark.png.
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

SECONDS = 300
"""The most that an answer may take."""
COLOURS = 128
"""A screenshot is stored with so many: it is read on a page, not measured."""


def main(arguments: list[str]) -> None:
    """Take the screenshots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks page_pictures")
    parser.add_argument("address", nargs="?", default="http://127.0.0.1:8000/ui/")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs"))
    parser.add_argument("--browser", default=None, help="path of a Chromium; playwright's own if none")
    parser.add_argument("--prompt", default="Tell me a short illustrated story about a fox.")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("playwright") is None:
        print("skipped: playwright is not installed")
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.browser, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            view = {"width": 1100, "height": 1000}
            page = browser.new_context(color_scheme=scheme, viewport=view).new_page()
            page.set_default_timeout(SECONDS * 1000)
            page.goto(options.address)
            _converse(page, options.prompt)
            path = options.folder / f"page_{scheme}.png"
            page.screenshot(path=path)
            _made_small(path)
            print(f"{path}: {path.stat().st_size} bytes")
        browser.close()


def _converse(page: Any, prompt: str) -> None:
    """Ask for a story, then about a picture."""
    page.locator("#begin button").last.wait_for()
    page.locator("#begin button").last.click()
    page.locator("#ask img").wait_for()
    page.keyboard.press("Enter")
    page.locator("#keep:not([disabled])").wait_for()
    page.locator("#ask textarea").fill(prompt)
    page.keyboard.press("Enter")
    page.locator("#talk .turn").nth(3).wait_for()
    # While an answer comes, the box has a button that stops it.
    page.locator("#ask button.stop-button").wait_for()
    page.locator("#ask button.submit-button").wait_for()
    page.locator("#talk").evaluate("talk => talk.scrollTo(0, 0)")
    page.wait_for_timeout(500)


def _made_small(path: Path) -> None:
    import PIL.Image

    with PIL.Image.open(path) as shot:
        small = shot.convert("RGB").quantize(COLOURS)
    small.save(path, optimize=True)
