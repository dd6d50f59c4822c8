"""The server under abuse (tests/serve_abuse.py) as serve_abuse.py does it, built with AddressSanitizer and UndefinedBehaviorSanitizer, and with ThreadSanitizer."""

import json
import sys

import common
from tough import call, tail

MINUTES = {"asan": 10, "tsan": 2}


def abuse(claims, preset):
    for step in (["cmake", "--preset", preset], ["ninja", "-C", common.ROOT / "build" / preset, "onset"]):
        output, status = call(step, 3 * 3600)
        if status:
            raise common.Failure(f"{' '.join(map(str, step))}: exit status {status}: {tail(output)}")
    # A report makes the exit status one that the script does not forgive.
    output, _ = call([sys.executable, common.ROOT / "tests" / "serve_abuse.py", "--minutes", MINUTES[preset], "--no-memory", "--onset",
                      common.ROOT / "build" / preset / "bin" / "onset"], 60 * MINUTES[preset] + 1200)
    report = common.parse(output.strip().splitlines()[-1] if output.strip() else "", "tests/serve_abuse.py")
    print(f"{preset}, {MINUTES[preset]} minutes: {json.dumps(report['counts'])}")
    for trouble in report["troubles"]:
        print(trouble)
    claims.report(f"serve.tough.{preset}", len(report["troubles"]))


def main():
    claims = common.Claims(__file__)
    for preset in MINUTES:
        with claims.rows(f"serve.tough.{preset}"):
            if claims.wanted(f"serve.tough.{preset}"):
                abuse(claims, preset)
    claims.finish()


if __name__ == "__main__":
    main()
