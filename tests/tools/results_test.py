"""tools/results on a project of its own with small claims."""

import json

import harness

TABLE = """# name	comparison	value	unit	when	script	sentence
engine.speed	>=	1.5	×	short	fast	how fast
engine.speed.long	>=	2	×	long	fast	how fast for long
serve.errors	<=	0	errors	short	tough	how tough
serve.other	<=	1		short	missing	no script
"""
SCRIPT = """import sys
sys.path.insert(0, %r)
import common
claims = common.Claims(__file__)
"""


class Results(harness.Test):
    def setUp(self):
        super().setUp()
        self.results = self.folder / "bench" / "results"
        self.results.mkdir(parents=True)
        (self.results / "required.tsv").write_text(TABLE)
        self.script("fast", "claims.report('engine.speed', 1.8, [1.7, 1.8, 1.9])\n"
                            "if claims.long: claims.report('engine.speed.long', 1.0)\nclaims.finish()")
        self.script("tough", "claims.report('serve.errors', 0)\nclaims.finish()")

    def script(self, name, text):
        (self.results / f"{name}.py").write_text(SCRIPT % str(harness.ROOT / "bench" / "results") + text + "\n")

    def measure(self, *arguments, status=0):
        return self.run_command(harness.ROOT / "tools" / "results", "--root", self.folder, *arguments, status=status,
                                environment={"ONSET_REQUIRED": str(self.results / "required.tsv")})

    def stored(self):
        return json.loads((self.results / "measured.json").read_text())["claims"]

    def page(self):
        return (self.folder / "docs" / "results.md").read_text()

    def test_a_claim_is_measured_and_written(self):
        done = self.measure("engine")
        self.assertIn("engine.speed  1.8 ×  >= 1.5 ×  pass", done.stdout)
        self.assertIn("3 samples: 1.7, 1.8, 1.9; median 1.8, ±5.6 %", done.stdout)
        self.assertIn("| engine.speed | how fast | 1.8 × | >= 1.5 × | pass |", self.page())
        self.assertIn("| engine.speed.long | how fast for long | - | >= 2 × | not measured |", self.page())

    def test_long_rows_need_the_option(self):
        self.assertIn("engine.speed.long  1 ×  >= 2 ×  fail", self.measure("fast", "--long", status=1).stdout)

    def test_earlier_figures_stay(self):
        self.measure("engine")
        self.measure("serve.errors")
        self.assertEqual(sorted(self.stored()), ["engine.speed", "serve.errors"])
        self.assertIn("### fast", self.page())
        self.assertIn("### tough", self.page())

    def test_a_failing_claim_fails(self):
        self.script("tough", "claims.report('serve.errors', 2)\nclaims.finish()")
        self.assertIn("serve.errors  2 errors  <= 0 errors  fail", self.measure("serve.errors", status=1).stdout)

    def test_a_script_cannot_pass_a_figure_that_does_not(self):
        (self.results / "tough.py").write_text("print('serve.errors  7 errors  <= 9 errors  pass')")
        self.measure("serve.errors", status=1)
        self.assertEqual(self.stored()["serve.errors"]["verdict"], "fail")

    def test_a_script_that_breaks_fails_its_rows(self):
        self.script("tough", "raise SystemExit('broken')")
        self.measure("serve.errors", status=1)
        self.assertEqual(self.stored()["serve.errors"]["figure"], "none")

    def test_a_missing_script_fails(self):
        self.assertIn("missing.py does not exist", self.measure("serve.other", status=1).stdout)

    def test_a_skipped_claim_is_no_failure(self):
        self.script("tough", "with claims.rows('serve'):\n    raise common.Skip('no peer here')\nclaims.finish()")
        self.measure("tough")
        self.assertIn("skipped: no peer here", self.page())

    def test_a_forgotten_row_fails(self):
        self.script("tough", "claims.finish()")
        self.measure("tough", status=1)

    def test_no_write(self):
        self.measure("engine", "--no-write")
        self.assertFalse((self.folder / "docs").exists())

    def test_an_unknown_name(self):
        self.assertIn("no claim is named 'engine.spee'", self.measure("engine.spee", status=1).stderr)

    def test_the_real_table_is_well_formed(self):
        listed = self.run_command(harness.ROOT / "tools" / "results", "--list").stdout.splitlines()
        for line in listed:
            self.assertRegex(line, r"^(engine|serve|reuse|long|plan|npu|forecast)\.")


if __name__ == "__main__":
    harness.main()
