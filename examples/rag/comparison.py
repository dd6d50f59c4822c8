"""The same questions over the same passages, with each way of using again what was read: times, tokens, and how near the answers are."""

import collections
import contextlib
import itertools
import re
import statistics
import tempfile

from server import Server

# What the servers know before the first question, and how the table says it. Each state has servers of its own, one for each way.
STATES = {"new": "no passage was read before", "known": "every passage was read once before, by itself",
          "stored": "as before, but since then the server has ended: a new one loads the passages from files"}
STORING = ("ape", "cacheblend", "full")


def words_of(text):
    return re.findall(r"\w+", text.lower())


def f1(answer, reference):
    """The harmonic mean of the shares of words that two answers have in common, 0 to 1."""
    ours, theirs = words_of(answer), words_of(reference)
    common = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if ours or theirs else 1.0


def same_beginning(answer, reference):
    """The share of words before the first that differs, 0 to 1."""
    ours, theirs = words_of(answer), words_of(reference)
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs)))
    return same / max(len(ours), len(theirs)) if ours or theirs else 1.0


def report_of(way, answers, reference):
    """One way's figures; `reference` are the answers of the way `off`."""
    pairs = [(answer.text, whole.text) for answer, whole in zip(answers, reference)]
    seconds = [answer.first_token_seconds for answer in answers]
    return {"way": way, "first_token_seconds": seconds, "median_first_token_seconds": statistics.median(seconds),
            **{field: sum(getattr(answer, field) for answer in answers)
               for field in ("prompt_tokens", "cached_tokens", "stored_tokens", "reused_tokens", "recomputed_tokens", "loaded_bytes")},
            "equal_answers": sum(ours == theirs for ours, theirs in pairs) / len(pairs),
            "same_beginning": statistics.mean(same_beginning(*pair) for pair in pairs),
            "f1": statistics.mean(f1(*pair) for pair in pairs),
            "answers": [answer.text for answer in answers]}


def run_pass(servers, asked, ways, options, state, say):
    """The answers of one pass, a list for each way. `servers`: one for each way."""
    if state == "known":
        passages = list(dict.fromkeys(passage for _, found in asked for passage in found))
        for number, passage in enumerate(passages, 1):
            say(f"reading passage {number} of {len(passages)}")
            for way in ways:
                if way != "off":
                    servers[way].ask("What is this about?", [passage], way, 1, options.ratio)
    answers = {way: [] for way in ways}
    for number, (question, found) in enumerate(asked, 1):
        say(f"question {number} of {len(asked)}, passages {state}")
        for way in ways:  # in turns, so that a machine's other work meets all alike
            answers[way].append(servers[way].ask(question.text, found, way, options.tokens, options.ratio))
    return answers


def compare(index, questions, ways, options, say):
    """The whole comparison, as what --json prints. `say` gets its progress."""
    asked = [(question, index.search(question.text, options.passages)) for question in questions]
    ways = ["off", *(way for way in ways if way != "off")]
    # What keeps whole prompts comes last, in case all ask one server.
    order = sorted(ways, key=lambda way: way == "prefix")
    passes = []
    with tempfile.TemporaryDirectory(prefix="rag-") as store:
        # A server that was running may know the passages: with it, only what is the same for both can be measured.
        for state in STATES if options.url is None else ("known",):
            # In a new process nothing is left of what the others know.
            taking = [way for way in order if state != "stored" or way == "off" or way in STORING]
            if taking == ["off"] and order != ["off"]:
                continue
            with contextlib.ExitStack() as stack:
                if options.url is None:
                    kept = [] if state == "new" else ["--store", store]
                    servers = {way: stack.enter_context(Server.start([*options.serve, *kept])) for way in taking}
                else:
                    servers = dict.fromkeys(taking, stack.enter_context(Server(options.url)))
                model = servers["off"].find_model()
                answers = run_pass(servers, asked, taking, options, state, say)
            passes.append({"passages": state, "ways": [report_of(way, answers[way], answers["off"]) for way in ways if way in taking]})
    phrased = [(question.phrase, found) for question, found in asked if question.phrase]
    return {"model": model, "passages": len({passage for _, found in asked for passage in found}), "passages_each": options.passages,
            "answer_in_passages": sum(any(phrase in passage.text for passage in found) for phrase, found in phrased) if phrased else None,
            "questions": [{"question": question.text, "sources": [passage.source() for passage in found]} for question, found in asked],
            "passes": passes}


def table(report):
    """The comparison as lines of text."""
    count = len(report["questions"])
    found = report["answer_in_passages"]
    lines = [f"{count} question{'s' if count != 1 else ''} to {report['model']}, {report['passages_each']} passages each, "
             f"{report['passages']} different ones" + (f"; the answer's passage was found for {found}" if found is not None else "")]
    for each in report["passes"]:
        lines += ["", STATES[each["passages"]],
                  f"{'':10}  {'first token':>13}  {'':>7}  {'tokens: all':>11} {'cached':>8} {'stored':>8} {'reused':>8} {'recomputed':>10}  {'loaded':>9}  "
                  f"{'equal':>7}  {'same':>9}  {'F1':>5}",
                  f"{'':10}  {'ms (median)':>13}  {'':>7}  {'':>11} {'':>8} {'':>8} {'':>8} {'':>10}  {'MiB':>9}  {'answers':>7}  {'beginning':>9}"]
        base = each["ways"][0]["median_first_token_seconds"]
        for way in each["ways"]:
            seconds = way["median_first_token_seconds"]
            lines.append(f"{way['way']:10}  {1e3 * seconds:13.1f}  {base / seconds:5.1f} x  {way['prompt_tokens']:11} {way['cached_tokens']:8} "
                         f"{way['stored_tokens']:8} {way['reused_tokens']:8} {way['recomputed_tokens']:10}  {way['loaded_bytes'] / 2**20:9.1f}  "
                         f"{100 * way['equal_answers']:5.0f} %  {100 * way['same_beginning']:7.0f} %  {way['f1']:5.2f}")
    return "\n".join(lines)
