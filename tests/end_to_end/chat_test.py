"""onset chat on a terminal: turns, commands, Ctrl-C, the context's end."""

import os
import pty
import re
import select
import signal
import subprocess
import time

import gguf_edit
import harness

STORIES = harness.ROOT / "tests" / "fixtures" / "models" / "stories260K.gguf"
TEMPLATE = ("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}[assistant] {% endif %}")


class Terminal:
    """The program on a terminal of its own; what it writes, standard error included, comes as one text."""

    def __init__(self, folder, *arguments):
        self.end, inner = pty.openpty()
        self.process = subprocess.Popen([harness.ONSET, *map(str, arguments)], cwd=folder, stdin=inner, stdout=inner, stderr=inner,
                                        start_new_session=True)
        os.close(inner)
        self.text = ""

    def read(self, seconds=0.1):
        ready, _, _ = select.select([self.end], [], [], seconds)
        if not ready:
            return True
        try:
            block = os.read(self.end, 65536)
        except OSError:  # the program has gone
            return False
        self.text += block.decode(errors="replace").replace("\r\n", "\n")
        return bool(block)

    def wait_for(self, words, timeout=60):
        """Reads until `words` come; returns everything up to their end and forgets it."""
        deadline = time.monotonic() + timeout
        while words not in self.text:
            if time.monotonic() > deadline or not self.read():
                raise AssertionError(f"waited for {words!r}, got {self.text!r}")
        end = self.text.index(words) + len(words)
        before, self.text = self.text[:end], self.text[end:]
        return before

    def type(self, text):
        os.write(self.end, text.encode())

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.end)


class Chat(harness.Test):
    def setUp(self):
        super().setUp()
        model = gguf_edit.Gguf(STORIES)
        model.set_text("tokenizer.chat_template", TEMPLATE)
        model.write(self.folder / "chat.gguf")

    def chat(self, *arguments):
        terminal = Terminal(self.folder, "chat", "--no-cache", "--model", "chat.gguf", *arguments)
        self.addCleanup(terminal.close)
        terminal.wait_for("> ")
        return terminal

    def test_turns_commands_and_leaving(self):
        terminal = self.chat("-n", 12, "--figures")
        terminal.type("Hello there.\n")
        first = terminal.wait_for("\n> ")
        self.assertRegex(first, r"\[\d+ prompt tokens, 0 of them from earlier turns")
        terminal.type("And then?\n")
        reused = int(re.search(r"prompt tokens, (\d+) of them", terminal.wait_for("\n> "))[1])
        self.assertGreater(reused, 20)
        terminal.type("/stats\n")
        self.assertIn("4 messages", terminal.wait_for("> "))
        terminal.type("/reset\n")
        terminal.wait_for("A new conversation.\n> ")
        terminal.type("/help\n")
        self.assertIn("/system TEXT", terminal.wait_for("\n> "))
        terminal.type("/dance\n")
        terminal.wait_for("There is no command /dance")
        terminal.wait_for("> ")
        terminal.type("/quit\n")
        self.assertEqual(terminal.process.wait(timeout=30), 0)

    def test_control_c_stops_the_answer_and_not_the_program(self):
        terminal = self.chat("--temperature", 1)
        terminal.wait_for("") if terminal.text else None
        terminal.type("Tell me a very long story.\n")
        terminal.wait_for("story.\n")
        os.killpg(terminal.process.pid, signal.SIGINT)
        said = terminal.wait_for("> ")
        # A short answer may have ended by itself before the signal came; then Ctrl-C met the prompt.
        self.assertTrue("[stopped]" in said or "Ctrl-D" in said or said.endswith("> "), said)
        terminal.type("/stats\n")
        terminal.wait_for("of the context")
        terminal.wait_for("> ")
        terminal.type("\x04")
        self.assertEqual(terminal.process.wait(timeout=30), 0)

    def test_the_contexts_end_is_said(self):
        terminal = self.chat("--pool", 192, "-n", 40)
        said = ""
        for _ in range(6):
            terminal.type("Tell me about the little dog and the ball.\n")
            said += terminal.wait_for("\n> ")
        self.assertRegex(said, r"\[the context of 192 tokens was full: the \d+ oldest messages were forgotten\]")
        terminal.type("x" * 900 + "\n")
        self.assertIn("the context of 192 has room for 144 and an answer", terminal.wait_for("\n> "))

    def test_standard_input_that_is_no_terminal(self):
        done = self.onset("chat", "--no-cache", "--model", "chat.gguf", "-n", 5, stdin="Hello.\nAnd \\\nthen?\n")
        self.assertEqual(len(done.stdout.splitlines()) >= 2, True, done.stdout)
        self.assertEqual(done.stderr.count("stopped at the most tokens"), 2)


if __name__ == "__main__":
    harness.main()
