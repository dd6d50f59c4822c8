"""The set-up shared by tools/start and tools/test (tools/lib.sh), with stand-ins for the system's commands."""

import os

import harness

# Shell functions win over programs: a Debian 12 without packages, an ordinary user, no terminal.
DEBIAN = 'distribution() { printf "debian 12"; }; dpkg-query() { return 1; }; id() { echo 1000; }; '
ROOT = DEBIAN + 'id() { echo 0; }; need_space() { :; }; '


class SetUp(harness.Test):
    def shell(self, script, status=0, environment=None):
        start = f"set -euo pipefail; top='{harness.ROOT}'; . \"$top/tools/lib.sh\"; "
        return self.run_command("bash", "-c", start + script, status=status,
                                environment={"ONSET_SKIP_SETUP": "", "TMPDIR": str(self.folder), **(environment or {})})

    def test_an_unknown_distribution_is_named(self):
        done = self.shell('distribution() { printf "plan9 4"; }; set_up build', status=1)
        self.assertIn("this is plan9 4", done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1)

    def test_set_up_can_be_skipped(self):
        self.shell('distribution() { printf "plan9 4"; }; set_up build', environment={"ONSET_SKIP_SETUP": "1"})

    def test_without_root_and_sudo_it_says_what_to_install(self):
        done = self.shell(DEBIAN + 'command() { return 1; }; set_up build', status=1)
        self.assertIn("neither root nor sudo", done.stderr)
        self.assertIn("apt-get install clang-19", done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1)

    def test_sudo_with_a_password_and_no_terminal(self):
        done = self.shell(DEBIAN + 'sudo() { return 1; }; set_up build', status=1)
        self.assertIn("sudo asks for a password", done.stderr)

    def test_nothing_missing_asks_nobody(self):
        self.shell(DEBIAN + 'missing_packages() { :; }; apt-get() { exit 9; }; sudo() { exit 9; }; set_up build')

    def test_only_what_is_missing(self):
        done = self.shell('dpkg-query() { printf "cmake=installed g++=config-files "; return 1; }; '
                          'missing_packages cmake g++ ninja-build')
        self.assertEqual(done.stdout.split(), ["g++", "ninja-build"])

    def test_no_network_is_recognised(self):
        done = self.shell(ROOT + 'env() { echo "W: Temporary failure resolving a name" >&2; return 100; }; set_up build',
                          status=1)
        self.assertIn("onset: no network: apt-get update failed", done.stderr)

    def test_a_full_disk_is_recognised(self):
        done = self.shell('step "copying" "copying failed" sh -c "echo No space left on device; exit 1"', status=1)
        self.assertIn("onset: the disk is full: copying failed", done.stderr)

    def test_too_little_space_is_said_first(self):
        done = self.shell(f"need_space '{self.folder}/new/folder' 999999999 'the build'", status=1)
        self.assertIn("the disk is full: the build needs 999999999 MiB", done.stderr)

    def test_a_missing_compiler_is_named(self):
        for preset, compiler in (("release", "clang++-19"), ("debug", "g++")):
            done = self.shell(f'command() {{ [ "$2" != {compiler} ]; }}; need_tools {preset}', status=1)
            self.assertIn(f"{compiler} was not found, and preset {preset} needs it", done.stderr)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1)
        self.shell('command() { true; }; need_tools release')

    def test_a_step_that_works_leaves_no_log(self):
        done = self.shell('step "working" "cannot happen" true')
        self.assertEqual(done.stderr, "onset: working\n")
        self.assertEqual(os.listdir(self.folder), [])

    def test_under_sudo_the_owner_of_the_checkout_works(self):
        done = self.shell('id() { echo 0; }; stat() { echo 1234; }; getent() { echo "ann:x:1234:1234::/home/ann:/bin/sh"; }; '
                          'exec() { printf "%s\\n" "$*"; }; SUDO_UID=1234 SUDO_GID=55 leave_root "a prompt"')
        self.assertIn("--reuid 1234 --regid 55", done.stdout)
        self.assertIn("HOME=/home/ann", done.stdout)
        self.assertIn("a prompt", done.stdout)

    def test_under_sudo_in_roots_checkout_stays_root(self):
        done = self.shell('id() { echo 0; }; stat() { echo 0; }; exec() { command exit 9; }; '
                          'SUDO_UID=1234 SUDO_GID=55 SUDO_USER=ann leave_root')
        self.assertIn("staying root", done.stderr)

    def test_every_package_has_both_names_and_a_group(self):
        for line in (harness.ROOT / "tools" / "packages.tsv").read_text().splitlines():
            if not line.startswith("#"):
                fields = line.split("\t")
                self.assertEqual(len(fields), 4, line)
                self.assertIn(fields[2], ("build", "developer"))

    def test_start_without_a_prompt_explains_itself(self):
        done = self.run_command(harness.ROOT / "tools" / "start", status=2)
        self.assertIn('tools/start "PROMPT"', done.stderr)


if __name__ == "__main__":
    harness.main()
