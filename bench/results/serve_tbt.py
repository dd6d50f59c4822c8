"""--tbt keeps its promise: the ShareGPT replay at 70 % of capacity, targets of 25, 50 and 150 ms."""

import common
import serving

TARGETS = (25, 50, 150)  # milliseconds
REQUESTS = 100


def measure_targets(claims, model):
    steps = common.onset_json("bench", "steps", "--model", model, "--threads", serving.THREADS, "--json")
    print(f"step times: predictions of unseen steps {100 * steps['held_out_mean_error']:.1f} % off on average")
    for target in TARGETS:
        name = f"serve.tbt.{target}"
        with serving.onset_server(model, "--tbt", f"{target}ms") as server:
            rate = serving.capacity(server, REQUESTS, 2, target / 1e3)
            if rate == 0:
                claims.fail(f"{name}.most", f"no rate keeps {target} ms")
                claims.fail(f"{name}.least", f"no rate keeps {target} ms")
                continue
            done = server.load("--model", "model", *serving.load_options(REQUESTS, seed=2), "--rate", 0.7 * rate)
        late = 1e3 * done["between_tokens_seconds"]["p99"]
        print(f"{name}: capacity {rate:.3f} requests/s; at 70 % of it P50 {1e3 * done['between_tokens_seconds']['p50']:.1f} ms, P99 {late:.1f} ms, "
              f"median time to first token {done['first_token_seconds']['p50']:.3f} s")
        claims.report(f"{name}.most", late / target)
        claims.report(f"{name}.least", late / target)


def measure(claims):
    measure_targets(claims, common.model(common.SMOLLM2))


if __name__ == "__main__":
    common.measure_long(__file__, measure, "serve.tbt")
