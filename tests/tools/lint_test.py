"""tools/lint finds what it is there for: each check is given a file that breaks its rule."""

import shutil

import harness


class Lint(harness.Test):
    def setUp(self):
        super().setUp()
        for name in ("tools", "docs", "onset/base", "onset/engine"):
            (self.folder / name).mkdir(parents=True)
        shutil.copy(harness.ROOT / "tools" / "lint", self.folder / "tools" / "lint")
        (self.folder / "CMakeLists.txt").write_text("foreach(room base tensor engine)\nendforeach()\n")
        (self.folder / "tools" / "packages.tsv").write_text("cmake\tcmake\tbuild\tbuilds\n")
        (self.folder / "docs" / "dependencies.md").write_text("| `cmake` |\n")

    def lint(self, check, status):
        return self.run_command("python3", "-B", "tools/lint", check, status=status).stdout

    def put(self, name, text):
        (self.folder / name).write_text(text)

    def test_a_room_may_include_rooms_before_it(self):
        self.put("onset/engine/a.cc", '#include "onset/base/status.h"\n#include <vector>\n')
        self.lint("includes", 0)

    def test_a_room_may_not_include_rooms_after_it(self):
        self.put("onset/base/a.h", '#pragma once\n#  include "onset/engine/engine.h"\n')
        self.assertEqual(self.lint("includes", 1),
                         "onset/base/a.h:2: includes: room base includes room engine, which comes after it\n")

    def test_an_unknown_room(self):
        (self.folder / "onset" / "attic").mkdir()
        self.put("onset/attic/a.cc", "")
        self.put("onset/base/b.cc", '#include "onset/attic/a.h"\n')
        found = self.lint("includes", 1)
        self.assertIn("room attic is not in the list", found)
        self.assertIn("includes room attic", found)

    def test_words(self):
        self.put("onset/base/a.cc", "// TO" + "DO: later\n")
        self.put("onset/base/b.cc", 'const char* path = "/ro' + 'ot/models";\n')
        found = self.lint("words", 1)
        self.assertIn("onset/base/a.cc:1: words:", found)
        self.assertIn("onset/base/b.cc:1: words:", found)

    def test_python_and_shell(self):
        self.put("tools/a.py", "def broken(:\n")
        self.assertIn("tools/a.py:1: python:", self.lint("python", 1))
        self.put("tools/b", "#!/usr/bin/env bash\nif true; then\n")
        self.assertIn("tools/b:1: shell:", self.lint("shell", 1))

    def test_a_package_without_a_row(self):
        self.lint("dependencies", 0)
        self.put("tools/packages.tsv", "cmake\tcmake\tbuild\tbuilds\nninja-build\tninja-build\tbuild\tbuilds\n")
        self.assertIn("ninja-build has no row", self.lint("dependencies", 1))


if __name__ == "__main__":
    harness.main()
