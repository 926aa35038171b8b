"""Open pages in a real Chromium without a network, by the DevTools protocol over a pipe."""

import base64
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--disable-sync", "--remote-debugging-pipe", "--window-size=1200,1100")
PATIENCE = 60  # seconds


class Page:
    """One tab. `errors` holds what its console reported as an error, and `requests` the addresses that it asked for."""

    def __init__(self, reader, writer):
        self._reader, self._writer, self._sent, self._session = reader, writer, 0, None
        self.errors, self.requests = [], []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self(f"{domain}.enable")
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self("Network.emulateNetworkConditions", **offline)

    def __call__(self, method, **params):
        """Send a command, and note the events that come before its answer."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._writer.write(json.dumps(message).encode() + b"\0")
        self._writer.flush()
        while True:
            answer = json.loads(self._message())
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer.get("method"), answer.get("params", {}))

    def _message(self):
        found = bytearray()
        while (byte := self._reader.read(1)) != b"\0":
            assert byte, "the browser ended"
            found += byte
        return bytes(found)

    def _note(self, method, params):
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, address, ready):
        """Open an address in place of the page, and wait until an expression is true."""
        self("Page.navigate", url="about:blank")
        self("Page.navigate", url=address)
        self.wait(ready)

    def run(self, expression):
        """The value of a JavaScript expression; promises are awaited."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression, run=None):
        end = time.monotonic() + PATIENCE
        while not (run or self.run)(expression):
            assert time.monotonic() < end, f"{expression}: not true after {PATIENCE} s; {self.errors}"
            time.sleep(0.05)

    def frame(self):
        """A function like `run` for the document in the page's only frame."""
        frames = self("Page.getFrameTree")["frameTree"]["childFrames"]
        world = self("Page.createIsolatedWorld", frameId=frames[0]["frame"]["id"])["executionContextId"]

        def run(expression):
            found = self("Runtime.evaluate", expression=expression, contextId=world, returnByValue=True)
            assert "exceptionDetails" not in found, found
            return found["result"].get("value")

        return run

    def move(self, x, y, kind="mouseMoved", buttons=0):
        button = "left" if buttons or kind != "mouseMoved" else "none"
        self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=buttons, clickCount=1)

    def drag(self, start, end):
        """Drag the mouse from one place to another, in pixels of the window."""
        self.move(*start)
        self.move(*start, "mousePressed", 1)
        for part in (0.3, 0.7, 1):
            self.move(*(a + part * (b - a) for a, b in zip(start, end, strict=True)), buttons=1)
        self.move(*end, "mouseReleased")

    def picture(self, path: Path):
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot")["data"]))


@contextmanager
def browser(folder: Path):
    """A page in a browser of its own, with its profile in a folder; the test is skipped where there is no Chromium."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    commands, answers = os.pipe(), os.pipe()

    def pipes():  # the browser reads commands from 3 and writes answers to 4
        read, write = os.dup(commands[0]), os.dup(answers[1])
        os.dup2(read, 3)
        os.dup2(write, 4)

    process = subprocess.Popen(
        [CHROMIUM, *FLAGS, f"--user-data-dir={folder}"], preexec_fn=pipes, pass_fds=(3, 4), stderr=subprocess.DEVNULL
    )
    os.close(commands[0])
    os.close(answers[1])
    with os.fdopen(answers[0], "rb") as reader, os.fdopen(commands[1], "wb") as writer:
        try:
            yield Page(reader, writer)
        finally:
            process.terminate()
            process.wait(PATIENCE)
