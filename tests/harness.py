"""What the end-to-end tests share: the program, the default model, running, skipping.

    import harness

    class Tokenize(harness.Test):
        def test_counts(self):
            out = self.onset("tokenize", "--model", harness.default_model(), "--json", "--text", "two words").stdout

    if __name__ == "__main__":
        harness.main()

Each test has an empty folder `self.folder` of its own, deleted afterwards. No test asks for the network.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
ONSET = pathlib.Path(os.environ.get("ONSET") or ROOT / "build" / "release" / "bin" / "onset")
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "onset"


def default_model():
    """The path of the model that tools/start fetches; skips the test where it was never fetched."""
    path = CACHE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.is_file():
        raise unittest.SkipTest(f"{path.name} is missing: onset pull smollm2-135m-instruct")
    return path


def shared(path):
    """A file or folder of ../shared; skips the test where the clone stands alone."""
    found = SHARED / path
    if not found.exists():
        raise unittest.SkipTest(f"../shared/{path} is missing")
    return found


class Test(unittest.TestCase):
    maxDiff = 4000

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="onset-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def run_command(self, *command, status=0, stdin=None, environment=None, timeout=300):
        """Runs a command in self.folder and checks its exit status (None: any). Text in and out."""
        done = subprocess.run([str(part) for part in command], cwd=self.folder, text=True, errors="replace",
                              input=stdin if stdin is not None else "", capture_output=True, timeout=timeout,
                              env={**os.environ, **(environment or {})}, check=False)
        if status is not None:
            self.assertEqual(done.returncode, status,
                             f"{' '.join(map(str, command))}\n--- out\n{done.stdout[-2000:]}\n--- err\n{done.stderr[-2000:]}")
        return done

    def onset(self, *arguments, **options):
        return self.run_command(ONSET, *arguments, **options)

    def onset_json(self, *arguments, **options):
        return json.loads(self.onset(*arguments, **options).stdout)


def main():
    """Runs the tests of the calling file; exit status 77 when every one was skipped."""
    outcome = unittest.main(exit=False, verbosity=2).result
    if not outcome.wasSuccessful():
        sys.exit(1)
    sys.exit(77 if outcome.testsRun and len(outcome.skipped) == outcome.testsRun else 0)
