"""Starts `onset serve` for a claim. Used by the serve_* scripts."""

import contextlib
import pathlib
import re
import subprocess
import threading

import common


class Process:
    def __init__(self, *arguments):
        self.lines = []
        self.process = subprocess.Popen([str(part) for part in [common.onset_program(), "serve", "--port", 0, *arguments]],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"listening at (\S+:(\d+)) ", line):
                self.url, self.port = found[1], int(found[2])
                break
        else:
            raise common.Failure(f"onset serve did not start: {''.join(self.lines).strip()}")
        threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True).start()

    def resident_bytes(self):
        """The process's own memory, without pages of files that it maps."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", status)[1])

    def stop(self):
        """SIGTERM; the exit status."""
        self.process.terminate()
        return self.process.wait(60)


@contextlib.contextmanager
def serving(*arguments):
    server = Process(*arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
