"""onset pull: the list, licences, downloads that break and go on."""

import hashlib
import os

import harness
import https_server


class Pull(harness.Test):
    def pull(self, *arguments, **options):
        environment = {"XDG_CACHE_HOME": str(self.folder / "cache"), **https_server.DIRECT, "SSL_CERT_FILE": str(self.folder / "certificate.pem")}
        return self.onset("pull", *arguments, environment=environment, **options)

    def test_the_list(self):
        done = self.pull("--list").stdout
        self.assertIn("smollm2-135m-instruct", done)
        self.assertIn("Gemma terms of use", done)

    def test_a_licence_must_be_accepted(self):
        done = self.pull("gemma-3-270m", status=1)
        self.assertIn("https://ai.google.dev/gemma/terms", done.stderr)
        self.assertIn("--accept-licence", done.stderr)

    def test_a_download_that_breaks_goes_on(self):
        body = os.urandom(300_000)
        digest = hashlib.sha256(body).hexdigest()
        with https_server.serve(self.folder, {"/models/own.gguf": body}) as server:
            server.breaks_after = 100_000
            self.pull("--sha256", digest, f"{server.address}/models/own.gguf", status=1)
            target = self.folder / "cache" / "onset" / "models" / "own.gguf"
            self.assertFalse(target.exists())
            done = self.pull("--sha256", digest, f"{server.address}/models/own.gguf")
            self.assertEqual(done.stdout, f"{target}\n")
            self.assertEqual(target.read_bytes(), body)
            self.assertEqual(server.requests[1], ("/models/own.gguf", "bytes=100000-", server.tag))
            self.assertEqual([path.name for path in target.parent.iterdir()], ["own.gguf"])

    def test_a_file_that_changed_begins_anew(self):
        with https_server.serve(self.folder, {"/own.gguf": b"a" * 300_000}) as server:
            server.breaks_after = 100_000
            self.pull("--output", "own.gguf", f"{server.address}/own.gguf", status=1)
            server.files["/own.gguf"], server.tag = b"b" * 200_000, '"version-2"'
            self.pull("--output", "own.gguf", f"{server.address}/own.gguf")
            self.assertEqual((self.folder / "own.gguf").read_bytes(), b"b" * 200_000)

    def test_servers_without_ranges_and_parts_that_are_too_long(self):
        with https_server.serve(self.folder, {"/own.gguf": b"a" * 300_000}) as server:
            server.breaks_after = 100_000
            self.pull("--output", "own.gguf", f"{server.address}/own.gguf", status=1)
            server.ranges = False
            self.pull("--output", "own.gguf", f"{server.address}/own.gguf")
            self.assertEqual((self.folder / "own.gguf").stat().st_size, 300_000)
            server.ranges = True
            (self.folder / "two.gguf.part").write_bytes(b"z" * 400_000)
            (self.folder / "two.gguf.part.version").write_text(server.tag)
            server.files["/two.gguf"] = b"c" * 1000
            self.pull("--output", "two.gguf", f"{server.address}/two.gguf")
            self.assertEqual((self.folder / "two.gguf").read_bytes(), b"c" * 1000)

    def test_a_wrong_checksum_keeps_nothing(self):
        with https_server.serve(self.folder, {"/own.gguf": b"abc"}) as server:
            done = self.pull("--sha256", "0" * 64, "--output", "own.gguf", f"{server.address}/own.gguf", status=1)
            self.assertIn("expected 000000", done.stderr)
            self.assertEqual(list(self.folder.glob("own*")), [])

    def test_a_certificate_that_nobody_vouches_for_is_refused(self):
        with https_server.serve(self.folder, {"/own.gguf": b"abc"}) as server:
            done = self.onset("pull", "--output", "own.gguf", f"{server.address}/own.gguf", status=1, environment=https_server.DIRECT)
            self.assertIn("certificate", done.stderr)


if __name__ == "__main__":
    harness.main()
