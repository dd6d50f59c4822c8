"""Ten minutes of abuse (tests/serve_abuse.py): no crash, pool back to full, memory flat, everybody answered or told why."""

import json
import subprocess
import sys

import common

MINUTES = 10


def main():
    claims = common.Claims(__file__)
    with claims.rows("serve.abuse"):
        if claims.wanted("serve.abuse.minutes"):
            done = subprocess.run([sys.executable, common.ROOT / "tests" / "serve_abuse.py", "--minutes", str(MINUTES), "--onset", str(common.onset_program())],
                                  capture_output=True, text=True, timeout=60 * MINUTES + 600, check=False)
            report = common.parse(done.stdout, "tests/serve_abuse.py")
            print(json.dumps(report["counts"]), f"memory grew by {report['growth_mib']:.1f} MiB")
            for trouble in report["troubles"]:
                print(trouble)
            claims.report("serve.abuse.minutes", report["minutes"] if not report["troubles"] else 0)
    claims.finish()


if __name__ == "__main__":
    main()
