"""A small https server for tests of downloads: files from memory, ranges, and connections that break."""

import contextlib
import http.server
import shutil
import ssl
import subprocess
import threading
import unittest


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        if self.path not in server.files:
            self.send_error(404)
            return
        whole, tag = server.files[self.path], server.tag
        begin = 0
        wanted = self.headers.get("Range")
        if server.ranges and wanted and self.headers.get("If-Range") in (None, tag):
            begin = int(wanted.removeprefix("bytes=").split("-")[0])
            if begin >= len(whole):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if begin else 200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(whole) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(whole) - 1}/{len(whole)}")
        self.end_headers()
        body = whole[begin:]
        if server.breaks_after is not None:
            body, server.breaks_after = body[:server.breaks_after], None
            self.close_connection = True
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve(folder, files):
    """Yields the server: .address, .files, .requests, .ranges, .tag, .breaks_after (bytes of the next body). Its
    certificate is folder/certificate.pem. Skips the test where openssl is missing."""
    if not shutil.which("openssl"):
        raise unittest.SkipTest("openssl was not found: it makes the server's certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
                   check=True, capture_output=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    server.files, server.requests, server.ranges, server.tag, server.breaks_after = files, [], True, '"version-1"', None
    server.address = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


# Nobody between the program and this server.
DIRECT = {"no_proxy": "*", "NO_PROXY": "*", "https_proxy": "", "HTTPS_PROXY": "", "all_proxy": "", "ALL_PROXY": ""}
