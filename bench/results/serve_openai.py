"""The real `openai` package, langchain-openai, curl and schemathesis against `onset serve`, in a Python environment of their own."""

import json
import shutil
import subprocess
import sys
import tempfile

import common
import serve_process

PACKAGES = ("openai", "langchain-openai", "schemathesis", "httpx")
CHECKS = common.ROOT / "bench" / "results" / "openai_checks.py"


def environment():
    """The folder of the environment; made once."""
    folder = common.CACHE / "serve-openai"
    if (folder / "complete").is_file():
        return folder
    try:
        common.run([sys.executable, "-m", "venv", "--clear", folder])
        common.run([folder / "bin" / "pip", "install", "-q", "--only-binary", ":all:", *PACKAGES], timeout=900)
    except common.Failure as problem:
        raise common.Skip(f"the packages cannot be installed: {problem}") from None
    (folder / "complete").touch()
    return folder


def curl_works(url):
    body = json.dumps({"model": "a", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "stream": True})
    if shutil.which("curl") is None:
        raise common.Skip("curl is not installed")
    done = subprocess.run(["curl", "-sS", "-N", "--fail", f"{url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body],
                          capture_output=True, text=True, timeout=120, check=False)
    big = json.dumps({"model": "a", "prompt": "x " * 600_000})  # curl asks "Expect: 100-continue" before it sends so much
    refused = subprocess.run(["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"{url}/v1/completions", "-H", "Content-Type: application/json", "-d", "@-"],
                             input=big, capture_output=True, text=True, timeout=120, check=False)
    print(f"curl: exit status {done.returncode}, {done.stdout.count('data: ')} events; a prompt of a megabyte: {refused.stdout}")
    return done.returncode == 0 and done.stdout.endswith("data: [DONE]\n\n") and refused.stdout == "400"


def server_errors(folder, url):
    """What schemathesis counts against the server; its output is printed."""
    with tempfile.TemporaryDirectory() as own:  # it leaves files where it runs
        done = subprocess.run([folder / "bin" / "schemathesis", "run", f"{url}/openapi.yaml", "--url", url, "--checks", "not_a_server_error", "--max-examples",
                               "60", "--seed", "1", "--request-timeout", "60"], capture_output=True, text=True, timeout=1500, check=False, cwd=own)
    print(done.stdout[-3000:])
    if done.returncode not in (0, 1) or "Test cases" not in done.stdout and "Tested" not in done.stdout:
        raise common.Failure(f"schemathesis: exit status {done.returncode}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    return 0 if done.returncode == 0 else done.stdout.count("Server error")


def main():
    claims = common.Claims(__file__)
    with claims.rows("serve.openai"):
        model, folder = common.model(common.SMOLLM2), environment()
        print(common.run([folder / "bin" / "pip", "freeze"]).out.replace("\n", " "))
        with serve_process.serving("--model", f"a={model}") as server:
            outcome = json.loads(common.run([folder / "bin" / "python", CHECKS, server.url, "a"], timeout=900).out.strip().splitlines()[-1])
            for name, problem in outcome.items():
                print(f"{name}: {problem or 'passed'}")
            package = {name: problem for name, problem in outcome.items() if name != "langchain"}
            claims.report("serve.openai.package", 100 * sum(problem is None for problem in package.values()) / len(package))
            claims.report("serve.openai.langchain", 100.0 * (outcome["langchain"] is None))
            claims.report("serve.openai.curl", 100.0 * curl_works(server.url))
            claims.report("serve.openai.schemathesis", server_errors(folder, server.url))
            if server.stop() != 0:
                raise common.Failure("the server did not end with exit status 0")
    claims.finish()


if __name__ == "__main__":
    main()
