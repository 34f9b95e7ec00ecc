"""A Chromium without a window, driven over a pipe (DevTools protocol): no library, no port."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

# the browser reads commands from descriptor 3 and writes answers to 4
_START = """import os, sys
given = [os.dup(int(text)) for text in sys.argv[1:3]]
spare = [os.dup2(descriptor, 60 + i) for i, descriptor in enumerate(given)]
for i, descriptor in enumerate(spare):
    os.dup2(descriptor, 3 + i)
os.execv(sys.argv[3], sys.argv[3:])"""
NAMES = ("chromium", "chromium-browser", "google-chrome")


def find() -> str | None:
    """Return the path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page; ``problems`` lists what it complained of and what it asked of the network."""

    def __init__(self, executable: str, profile: Path) -> None:
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        start = [sys.executable, "-c", _START, str(to_read), str(to_write), executable]
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-dev-shm-usage --remote-debugging-pipe"
        self._process = subprocess.Popen(
            [*start, *flags.split(), f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer, self._count, self._session = b"", 0, ""
        self.problems: list[str] = []
        targets = self.send("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._count:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._from, 1 << 20)
            if not part:
                raise RuntimeError(f"the browser ended with code {self._process.wait(20)}")
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        what = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(what["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif event.get("method") == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.problems.append(what["entry"]["text"])
        elif event.get("method") == "Network.requestWillBeSent":
            url = what["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.problems.append(f"request to {url}")

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a file in a window of this size and wait until its images are drawn."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=scheme)
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.run("new Promise(r => document.readyState === 'complete' ? r() : addEventListener('load', () => r()))")
        self.settle()

    def settle(self) -> None:
        """Wait until what was asked for is drawn: two frames, and the images that a report page decodes."""
        frames = "await new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)));"
        left = "typeof asked !== 'undefined' && asked !== painted"
        drawn = f"for (let i = 0; i < 200 && {left}; i++) await new Promise(r => setTimeout(r, 10));"
        self.run(f"(async () => {{ {frames} {drawn} }})()")

    def run(self, script: str) -> Any:
        """Return the value of a script; a promise is awaited."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", str(answer)))
        return answer["result"].get("value")

    def key(self, name: str) -> None:
        """Press and release a key, such as ``ArrowRight`` or ``f``."""
        codes = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "End": 35, "Enter": 13}
        text = {"text": {"Enter": "\r"}.get(name, name)} if len(name) == 1 or name == "Enter" else {}
        code = codes.get(name, ord(name[0].upper()))
        self.send("Input.dispatchKeyEvent", type="keyDown", key=name, windowsVirtualKeyCode=code, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=name, windowsVirtualKeyCode=code)
        self.settle()

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Send one event of the mouse: ``mousePressed``, ``mouseMoved``, ``mouseReleased`` or ``mouseWheel``."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, start: tuple[float, float], by: tuple[float, float], **more: Any) -> None:
        """Press the left button, move in steps, and release it."""
        x, y = start
        self.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1, **more)
        for step in range(1, 6):
            self.mouse("mouseMoved", x + by[0] * step / 5, y + by[1] * step / 5, button="left", buttons=1, **more)
        self.mouse("mouseReleased", x + by[0], y + by[1], button="left", clickCount=1, **more)
        self.settle()

    def touch(self, *steps: list[tuple[float, float]]) -> None:
        """Put fingers down at the first points, move them to the next ones, and lift them."""
        for step, points in enumerate(steps):
            fingers = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
            self.send("Input.dispatchTouchEvent", type="touchMove" if step else "touchStart", touchPoints=fingers)
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self.settle()

    def click(self, selector: str) -> None:
        """Click the middle of an element, scrolled into sight."""
        x, y = self.middle(selector)
        self.mouse("mousePressed", x, y, button="left", clickCount=1)
        self.mouse("mouseReleased", x, y, button="left", clickCount=1)
        self.settle()

    def middle(self, selector: str) -> tuple[float, float]:
        """Return the middle of an element in the window, into which it is scrolled."""
        box = f"document.querySelector({json.dumps(selector)})"
        script = "(e => { e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
        x, y = self.run(f"{script} return [b.left + b.width / 2, b.top + b.height / 2]; }})({box})")
        return x, y

    def pixel(self, pane: int, x: float, y: float) -> list[int]:
        """Return red, green and blue of a pane's canvas at a fraction of its width and height."""
        copy = "new OffscreenCanvas(c.width, c.height).getContext('2d', {willReadFrequently: true})"
        point = f"Math.floor({x} * c.width), Math.floor({y} * c.height), 1, 1"
        read = f"const k = {copy}; k.drawImage(c, 0, 0); return [...k.getImageData({point}).data].slice(0, 3)"
        pixel = f"(c => {{ {read}; }})(panes[{pane}].canvas)"
        found: list[int] = self.run(pixel)
        return found

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Write a picture of the window, or of the whole page, as PNG."""
        picture = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(20)
        os.close(self._to)
        os.close(self._from)
