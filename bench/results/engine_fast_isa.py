"""SmolLM2: prefill of 512 tokens on each instruction set, in turns; and the AVX2 path beside the installed ik_llama.cpp."""

import statistics

import common
import peers

TOKENS, REPEATS = 512, 5


def prefill(model, isa):
    report = common.onset_json("bench", "--model", model, "--prompt", TOKENS, "--generate", 0, "--threads", 2, "--repeat", 1,
                               "--json", environment={"ONSET_ISA": isa})
    return report["prefill"][0]["tokens_per_second"][0]


def main():
    claims = common.Claims(__file__)
    with claims.rows("engine.fast.isa"):
        model = common.model(common.SMOLLM2)
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = file.read().split()
        if "avx512_vnni" not in flags or "avx512_bf16" not in flags:
            raise common.Skip("this CPU lacks AVX-512 with VNNI and BF16")
        for isa in ("avx512", "avx-vnni", "avx2"):
            prefill(model, isa)  # packs the weights, or reads them from disk, before anything is timed
        samples = common.interleaved(REPEATS, {isa: lambda isa=isa: prefill(model, isa) for isa in ("avx512", "avx-vnni", "avx2")})
        medians = {isa: statistics.median(values) for isa, values in samples.items()}
        for isa, values in samples.items():
            print(f"{isa}: tokens/s, {common.describe(values)}")
        claims.report("engine.fast.isa.avx_vnni", medians["avx-vnni"] / medians["avx512"])
        claims.report("engine.fast.isa.avx2", medians["avx2"] / medians["avx512"])
        report = peers.compare("--model", model, "--peers", "llama.cpp,ik_llama.cpp", "--formats", "--prompt", TOKENS,
                               "--generate", 0, "--repeat", REPEATS, timeout=800, environment={"ONSET_ISA": "avx2"})
        mine, right = peers.engines(report)
        peers.ratio(claims, "engine.fast.isa.avx2_peer", mine, peers.only(right, "ik_llama.cpp"), lambda e: e.prefill(TOKENS))
    claims.finish()


if __name__ == "__main__":
    main()
