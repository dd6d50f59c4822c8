"""The page of onset serve in headless Chromium: a message is sent with the keyboard, the answer is read as it comes, charts fill.

Chromium is driven through its DevTools port. The README's pictures are made with the default model:

    ONSET_SCREENSHOTS=docs PYTHONPATH=tests python3 tests/end_to_end/serve_page_test.py Page.test_pictures
"""

import base64
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import threading
import time
import unittest
import urllib.request

import harness
from serve_client import Server


class Browser:
    """One page, through a WebSocket (RFC 6455) as DevTools wants it."""

    def __init__(self, test):
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        if program is None:
            raise unittest.SkipTest("chromium is not installed (tools/setup --developer)")
        self.process = subprocess.Popen([program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0",
                                         f"--user-data-dir={test.folder}/profile", "about:blank"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        test.addCleanup(self.close)
        port = None
        for line in self.process.stderr:
            if found := re.search(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", line):
                port = int(found[1])
                break
        if port is None:
            raise unittest.SkipTest("chromium does not start here")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=60) as answer:
            address = next(page["webSocketDebuggerUrl"] for page in json.load(answer) if page["type"] == "page")
        self.socket = socket.create_connection(("127.0.0.1", port), 60)
        test.addCleanup(self.socket.close)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(f"GET {address.split(str(port), 1)[1]} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.socket.recv(1)
        accepted = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
        test.assertIn(accepted, head)
        self.number = 0

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def read(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise OSError("chromium has gone")
            data += part
        return data

    def message(self):
        text = b""
        while True:
            first, second = self.read(2)
            length = second & 127
            if length >= 126:
                length = struct.unpack(">H" if length == 126 else ">Q", self.read(2 if length == 126 else 8))[0]
            text += self.read(length)
            if first & 128:
                return json.loads(text)

    def call(self, method, **parameters):
        self.number += 1
        data = json.dumps({"id": self.number, "method": method, "params": parameters}).encode()
        mask = os.urandom(4)
        length = bytes([128 | len(data)]) if len(data) < 126 else bytes([128 | 126]) + struct.pack(">H", len(data))
        self.socket.sendall(b"\x81" + length + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data)))
        while True:
            answer = self.message()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]

    def value(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise AssertionError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for(self, script, seconds=120):
        end = time.monotonic() + seconds
        while not (value := self.value(script)):
            if time.monotonic() > end:
                raise AssertionError(f"in vain: {script}")
            time.sleep(0.05)
        return value

    def press(self, name, code, text=None):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code, **({"text": text} if text and kind == "keyDown" else {}))

    def size(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def picture(self, name):
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=False)["data"]
        pathlib.Path(os.environ["ONSET_SCREENSHOTS"], name).write_bytes(base64.b64decode(data))


class Page(harness.Test):
    def open(self, *arguments, width=1200, height=820, **options):
        server = Server(self, *arguments, **options)
        browser = Browser(self)
        browser.call("Page.enable")
        browser.size(width, height)
        browser.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
        browser.wait_for("document.readyState === 'complete' && document.getElementById('model')?.options.length > 0")
        return server, browser

    def test_a_message_and_its_streamed_answer(self):
        # A model that takes milliseconds for a token: a small one's whole answer can come in one piece, and there is no time between pieces.
        server, page = self.open("--model", f"a={harness.default_model()}", model=False)
        self.assertEqual(page.value("document.activeElement.id"), "text")  # one can type at once
        page.value("document.getElementById('most').value = 60")
        page.call("Input.insertText", text="Once upon a time there was a dog")
        page.value("window.lengths = new Set(); new MutationObserver(() => { const all = document.querySelectorAll('.message.assistant');"
                   "if (all.length) lengths.add(all[all.length - 1].textContent.length); })"
                   ".observe(document.getElementById('messages'), { childList: true, subtree: true, characterData: true })")
        page.press("Enter", 13, "\r")
        page.wait_for("document.querySelector('.message.assistant')?.textContent.length > 20")
        page.wait_for("!document.getElementById('send').disabled")
        self.assertEqual(page.value("document.querySelector('.message.user').textContent"), "Once upon a time there was a dog")
        self.assertGreater(page.value("lengths.size"), 1)  # it came in pieces
        page.wait_for("document.querySelectorAll('#line rect.prompt').length > 0 && document.querySelectorAll('#line rect.answer').length > 5")
        self.assertRegex(page.value("document.getElementById('step').textContent"), r"Step \d+: .* running, \d+ waiting\.")
        self.assertRegex(page.value("document.getElementById('firsttext').textContent"), r"Last \d")
        self.assertRegex(page.value("document.getElementById('betweentext').textContent"), r"Median .*, worst ")
        self.assertEqual(page.value("document.getElementById('state').textContent"), "")
        self.assertEqual(page.value("performance.getEntriesByType('resource').filter((entry) => !entry.name.startsWith(location.origin)).length"), 0)
        page.press("Tab", 9)
        self.assertEqual(page.value("document.activeElement.id"), "temperature")
        self.assertGreater(server.metric("onset_requests_total", model="a", reason="length") + server.metric("onset_requests_total", model="a", reason="stop"), 0)

    def test_escape_stops_the_answer(self):
        server, page = self.open()
        page.value("document.getElementById('most').value = 400")
        # The story model ends early now and then: asked until an answer is still running when the key comes.
        for _ in range(20):
            page.call("Input.insertText", text="Once upon a time")
            page.press("Enter", 13, "\r")
            page.press("Escape", 27)
            page.wait_for("!document.getElementById('send').disabled")
            if server.metric("onset_requests_total", model="a", reason="cancelled") > 0:
                break
        self.assertIn("Stopped.", page.value("document.getElementById('messages').textContent"))

    def test_a_phone(self):
        _, page = self.open(width=390, height=800)
        self.assertLessEqual(page.value("document.documentElement.scrollWidth"), 390)

    @unittest.skipUnless(os.environ.get("ONSET_SCREENSHOTS"), "makes pictures where ONSET_SCREENSHOTS says")
    def test_pictures(self):
        server, page = self.open("--model", f"smollm2-135m-instruct={harness.default_model()}", "--budget", 64, model=False, height=760)

        def others(words):
            server.post("/v1/completions", model="smollm2-135m-instruct", prompt="The sea is wide. " * words, max_tokens=160, ignore_eos=True, seed=words)

        # Somebody else's answers run meanwhile, and a long prompt comes.
        threads = [threading.Thread(target=others, args=(words,)) for words in (3, 5, 120)]
        for thread in threads[:2]:
            thread.start()
        page.value("document.getElementById('temperature').value = 0; document.getElementById('most').value = 90")
        page.call("Input.insertText", text="Tell me in two sentences why the sea is salty.")
        page.press("Enter", 13, "\r")
        page.wait_for("document.querySelector('.message.assistant')?.textContent.length > 60")
        threads[2].start()
        page.wait_for("!document.getElementById('send').disabled")
        page.picture("page.png")
        page.size(390, 760)
        page.picture("page_phone.png")
        for thread in threads:
            thread.join()

    def test_a_key_is_asked_for(self):
        (self.folder / "keys").write_text("secret\n", encoding="utf-8")
        server = Server(self, "--api-keys", "keys")
        page = Browser(self)
        page.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
        self.assertIn("API key", page.wait_for("document.getElementById('state')?.textContent"))
        page.value("const key = document.getElementById('key'); key.value = 'secret'; key.dispatchEvent(new Event('change')); 0")
        page.wait_for("document.getElementById('model').options.length === 1")


if __name__ == "__main__":
    harness.main()
