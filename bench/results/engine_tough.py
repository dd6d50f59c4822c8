"""What must be a clear error has its sentence in docs/errors.md, and the test that writes that page passes."""

import common
import tough

# What must be a clear error, and a word of its row in docs/errors.md.
CONDITIONS = {
    "truncated file": "truncated", "flipped tensor offset": "offset", "huge declared sizes": "huge",
    "wrong vocabulary size": "vocabulary", "NaN weights": "NaN", "prompt past the context": "context",
    "zero tokens": "zero tokens", "full pool": "pool", "unwritable cache": "unwritable", "ONSET_ISA the CPU lacks": "ONSET_ISA",
    "full disk while converting": "converting", "full disk while pulling": "pulling",
}


def errors(claims):
    """The test that writes docs/errors.md passes, leaves the page as it is, and the page has every condition."""
    page = common.ROOT / "docs" / "errors.md"
    if not page.is_file():
        raise common.Failure("docs/errors.md does not exist")
    before = page.read_text(encoding="utf-8")
    output, status = tough.call(["ctest", "--preset", "release", "-R", r"^end_to_end\.errors", "--no-tests=error"], 600)
    after = page.read_text(encoding="utf-8")
    print(tough.tail(output, 5))
    if status or before != after:
        raise common.Failure("the test of docs/errors.md failed" if status else "docs/errors.md was out of date")
    missing = [name for name, word in CONDITIONS.items() if word.lower() not in after.lower()]
    for name in missing:
        print(f"docs/errors.md has no row about: {name}")
    claims.report("engine.tough.errors", 100 * (1 - len(missing) / len(CONDITIONS)))


def main():
    claims = common.Claims(__file__)
    with claims.rows("engine.tough.errors"):
        errors(claims)
    claims.finish()


if __name__ == "__main__":
    main()
