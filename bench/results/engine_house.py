"""The order of the rooms; files, links and commands that README.md and docs/ name; the diffs in docs/architecture.md."""

import re
import subprocess
import sys

import common

PAGES = ("README.md", "docs/architecture.md", "docs/dependencies.md", "docs/errors.md", "docs/results.md")


def named_things(page, text):
    """(what, whether it exists) of everything a page points at."""
    folder = (common.ROOT / page).parent
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not re.match(r"[a-z]+:", link):
            yield f"link {link}", (folder / link).exists()
    for path in re.findall(r"`((?:tools|tests|bench|docs|onset|cmake)/[\w./-]+)", text):
        if path.startswith("onset/") and not path.endswith((".h", ".cc", "/")) and "/" not in path[6:]:
            path = path.rstrip("/")
        yield f"path {path}", (common.ROOT / path).exists()
    yield from diff_lines(text)


def diff_lines(text):
    """Every added line of a diff in a page must stand in the file it names."""
    for block in re.findall(r"```diff\n(.*?)```", text, re.DOTALL):
        lines, path = None, "no file"
        for line in block.splitlines():
            if line.startswith("+++ b/"):
                path = line.removeprefix("+++ b/")
                lines = (common.ROOT / path).read_text().splitlines() if (common.ROOT / path).is_file() else None
            elif line.startswith("+"):
                yield f"line of {path}: {line}", lines is not None and line[1:] in lines


def subcommands(page, text):
    """Each `onset WORD` that a page shows must be a subcommand."""
    words = sorted(set(re.findall(r"(?:`|^\$? *(?:build/release/bin/)?)onset ([a-z]+)\b", text, re.MULTILINE)))
    for word in words:
        done = subprocess.run([common.onset_program(), word, "--help"], capture_output=True, timeout=60, check=False)
        yield f"onset {word}", done.returncode == 0


def main():
    claims = common.Claims(__file__)
    with claims.rows("engine.house.order"):
        done = subprocess.run([sys.executable, "-B", common.ROOT / "tools" / "lint", "includes"], capture_output=True, text=True,
                              check=False)
        print(done.stdout, end="")
        if done.returncode not in (0, 1):
            raise common.Failure(f"tools/lint: {done.stderr.strip()}")
        claims.report("engine.house.order", len(done.stdout.splitlines()))
    with claims.rows("engine.house.pages"):
        good = total = 0
        for page in PAGES:
            path = common.ROOT / page
            found = [(page, path.is_file())]
            if path.is_file():
                text = path.read_text(encoding="utf-8")
                found += [*named_things(page, text), *subcommands(page, text)]
                if page == "README.md":
                    found += [(f"README.md shows {command}", command in text) for command in ("tools/start", "tools/test")]
            for what, there in found:
                if not there:
                    print(f"{page}: {what}: not there")
            good, total = good + sum(there for _, there in found), total + len(found)
            print(f"{page}: {sum(there for _, there in found)} of {len(found)} things that it names are there")
        claims.report("engine.house.pages", 100 * good / total)
    claims.finish()


if __name__ == "__main__":
    main()
