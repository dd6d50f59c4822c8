"""A folder of texts: reading it, cutting it into passages, finding those that a question is about. Standard library only."""

import gzip
import os
import pathlib
import re
import sqlite3
import stat
import zlib
from typing import NamedTuple

MOST_FILE_BYTES = 64 << 20
# Words of a passage. A paragraph of more than LARGE is cut, so that every passage but a file's last has LEAST to MOST.
LEAST, USUAL, MOST, LARGE = 300, 400, 500, 200
# What has no spaces counts as words of 40 characters.
WORD = re.compile(r"\S{1,40}")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
STOP_WORDS = frozenset(
    "a about after all an and are as at be been before but by can did do does for from had has have he her him his how i if in into is it its "
    "many me much my of on or our she so than that the their them then there these they this to us was we were what when where which who whom "
    "whose why will with would you your".split())


class Trouble(Exception):
    """What keeps the program from going on; the text is one sentence for the user."""


class NoMatch(Trouble):
    """There is no passage for a question."""


class Passage(NamedTuple):
    path: str  # below the folder
    first_line: int
    last_line: int
    text: str

    def source(self):
        return f"{self.path}:{self.first_line}-{self.last_line}"


class Question(NamedTuple):
    text: str
    phrase: str = ""  # stands in the passage that has the answer; empty: not known


# --- files -------------------------------------------------------------------------------------------------------


def shown(path):
    """A path as text, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "replace")


def read_text(path):
    """The text of a file; one whose name ends in .gz is unpacked. Raises Trouble: why it is none."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Trouble("no ordinary file")
        with open(path, "rb") as file:
            source = gzip.GzipFile(fileobj=file) if str(path).endswith(".gz") else file
            data = source.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise Trouble(error.strerror or str(error)) from None
    except (EOFError, zlib.error):
        raise Trouble("a damaged gzip file") from None
    if len(data) > MOST_FILE_BYTES:
        raise Trouble(f"more than {MOST_FILE_BYTES >> 20} MiB")
    if b"\0" in data:
        raise Trouble("binary")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Trouble("not UTF-8") from None


def read_folder(folder):
    """([(path below the folder, text)], [(path, why it was left out)]), both in order of names. Hidden files and folders do not count, and
    links to folders are not followed. Raises Trouble when there is no text."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise Trouble(f"{shown(folder)}: expected a folder of texts, " + ("got a file" if folder.exists() else "there is none"))
    texts, left_out = [], []

    def unreadable(error):
        left_out.append((shown(os.path.relpath(error.filename, folder)), error.strerror))

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(parent, name)
            if name.startswith("."):
                continue
            try:
                text = read_text(path)
            except Trouble as reason:
                left_out.append((shown(os.path.relpath(path, folder)), str(reason)))
                continue
            if text.strip():
                texts.append((shown(os.path.relpath(path, folder)), text))
    if not texts:
        raise Trouble(f"{shown(folder)}: there is no text in this folder" + (f" ({said_left_out(left_out)})" if left_out else ""))
    return texts, left_out


def said_left_out(left_out, most=3):
    named = ", ".join(f"{path}: {reason}" for path, reason in left_out[:most])
    return f"left out {len(left_out)}: {named}" + (", ..." if len(left_out) > most else "")


# --- passages ----------------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """What is not cut again: a paragraph, or a part of a long one."""
    text: str
    words: int
    first_line: int
    last_line: int
    separator: str  # from the piece before it


def count_words(text):
    return sum(1 for _ in WORD.finditer(text))


def cut_line(line, most):
    """A line in parts of at most `most` words, at the ends of sentences where that is possible."""
    for sentence in SENTENCE_END.split(line):
        words = list(WORD.finditer(sentence))
        for begin in range(0, len(words), most):
            yield sentence[words[begin].start():words[min(begin + most, len(words)) - 1].end()]


def pieces_of(text):
    """The paragraphs of a text, long ones in parts."""
    paragraph, first = [], 1

    def cut():
        whole = "\n".join(paragraph)
        words = count_words(whole)
        if words <= LARGE:
            yield Piece(whole, words, first, first + len(paragraph) - 1, "\n\n")
            return
        separator = "\n\n"
        for number, line in enumerate(paragraph, first):
            for part in cut_line(line, LARGE):
                yield Piece(part, count_words(part), number, number, separator)
                separator = " "
            separator = "\n"

    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            first = first if paragraph else number
            paragraph.append(line.rstrip())
        elif paragraph:
            yield from cut()
            paragraph = []
    if paragraph:
        yield from cut()


def passage_of(path, pieces):
    text = "".join((piece.separator if number else "") + piece.text for number, piece in enumerate(pieces))
    return Passage(path, pieces[0].first_line, pieces[-1].last_line, text)


def passages_of(path, text):
    """A file's passages."""
    groups, words = [], MOST + 1
    for piece in pieces_of(text):
        if words >= LEAST and words + piece.words > USUAL:
            groups.append([])
            words = 0
        groups[-1].append(piece)
        words += piece.words
    # A short rest joins what comes before it.
    if len(groups) > 1 and words < LEAST and words + sum(piece.words for piece in groups[-2]) <= MOST:
        rest = groups.pop()
        groups[-1] += rest
    return [passage_of(path, group) for group in groups]


class Index:
    """Passages, and SQLite's full-text search over them (in memory: it is made anew for each run, so that it is never out of date)."""

    def __init__(self, texts):
        self.passages = [passage for path, text in texts for passage in passages_of(path, text)]
        self.database = sqlite3.connect(":memory:")
        try:
            self.database.execute("CREATE VIRTUAL TABLE passages USING fts5(text, tokenize='porter unicode61 remove_diacritics 2')")
        except sqlite3.OperationalError as error:
            raise Trouble(f"this Python's SQLite has no full-text search: {error}") from None
        self.database.executemany("INSERT INTO passages(rowid, text) VALUES (?, ?)", ((number, each.text) for number, each in enumerate(self.passages)))

    def search(self, question, count):
        """The passages that have most of the question's words (BM25), best first. Raises NoMatch when no passage has any."""
        words = list(dict.fromkeys(re.findall(r"\w+", question.lower())))
        telling = [word for word in words if word not in STOP_WORDS] or words
        if not telling:
            raise NoMatch("the question has no word to look for")
        rows = self.database.execute("SELECT rowid FROM passages WHERE passages MATCH ? ORDER BY rank, rowid LIMIT ?",
                                     (" OR ".join(f'"{word}"' for word in telling), count))
        found = [self.passages[number] for number, in rows]
        if not found:
            raise NoMatch(f"no passage has a word of the question {question!r}")
        return found


# --- questions ---------------------------------------------------------------------------------------------------


def read_questions(path):
    """A file with a question on each line; behind a tab, a phrase of the passage that has the answer; # begins a remark."""
    try:
        lines = read_text(path).splitlines()
    except Trouble as reason:
        raise Trouble(f"{shown(path)}: {reason}") from None
    questions = [Question(*(part.strip() for part in line.split("\t", 1))) for line in lines if line.strip() and not line.startswith("#")]
    if not questions or not all(question.text for question in questions):
        raise Trouble(f"{shown(path)}: expected a question on each line")
    return questions


def derived_questions(passages, count):
    """Questions about a folder that has none: two to each of some passages at equal distances, about a heading or a sentence of theirs."""
    questions = {}
    asked = passages[::max(1, 2 * len(passages) // count)]
    for passage in asked:
        headings = re.findall(r"^#+ +(.{4,80})$", passage.text, re.MULTILINE)
        sentences = [" ".join(each.split()) for each in SENTENCE_END.split(passage.text)]
        sentences = [each for each in sentences if 6 <= count_words(each) <= 30]
        made = [f"What does the text say about {each.strip('# ')}?" for each in headings[:1]]
        made += [f'What does the text mean by "{each}"' for each in (sentences[len(sentences) // 3:] + sentences[:1])]
        questions.update(dict.fromkeys(made[:2]))
    if not questions:
        raise Trouble("no questions can be made from these texts: name a file with --questions")
    return [Question(text) for text in list(questions)[:count]]
