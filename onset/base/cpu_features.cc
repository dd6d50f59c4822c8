#include "onset/base/cpu_features.h"

#include <array>
#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace onset {
namespace {

constexpr std::array all_isas = {Isa::generic, Isa::avx2, Isa::avx_vnni, Isa::avx512};

#if defined(__x86_64__)
// AVX-VNNI is leaf 7, sub-leaf 1, EAX bit 4; the compilers' __builtin_cpu_supports does not know it everywhere.
bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__builtin_cpu_supports("avx2") || __get_cpuid_max(0, nullptr) < 7) return false;
  __cpuid_count(7, 1, a, b, c, d);
  return (a & (1u << 4)) != 0;
}

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 29)) != 0;  // F16C
  }();
}

bool has_avx512_vnni_vl() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}

bool has_avx512_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  __cpuid_count(7, 1, a, b, c, d);
  return (a & (1u << 5)) != 0;
}
#endif

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::generic:
      return "generic";
    case Isa::avx2:
      return "avx2";
    case Isa::avx_vnni:
      return "avx-vnni";
    case Isa::avx512:
      return "avx512";
  }
  return "unknown";
}

bool cpu_supports(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  switch (isa) {
    case Isa::generic:
      return true;
    case Isa::avx2:
      return has_avx2();
    case Isa::avx_vnni:
      return has_avx2() && (has_avx_vnni() || has_avx512_vnni_vl());
    case Isa::avx512:
      return has_avx2() && has_avx512_vnni_vl() && has_avx512_bf16();
  }
  return false;
#else
  return isa == Isa::generic;
#endif
}

bool vnni256_is_evex() {
#if defined(__x86_64__)
  // Asked for by every kernel call; the CPUID instruction costs microseconds in a virtual machine.
  static const bool evex = [] {
    __builtin_cpu_init();
    return !has_avx_vnni() && has_avx512_vnni_vl();
  }();
  return evex;
#else
  return false;
#endif
}

Result<Isa> choose_isa() {
  const char* wanted = std::getenv("ONSET_ISA");
  if (wanted != nullptr && *wanted != '\0') {
    for (const Isa isa : all_isas) {
      if (std::string_view(wanted) != isa_name(isa)) continue;
      if (cpu_supports(isa)) return isa;
      return error(Code::unsupported, "ONSET_ISA={}: this CPU lacks that instruction set", wanted);
    }
    return error(Code::invalid_argument, "ONSET_ISA={}: expected generic, avx2, avx-vnni or avx512", wanted);
  }
  Isa best = Isa::generic;
  for (const Isa isa : all_isas) {
    if (cpu_supports(isa)) best = isa;
  }
  return best;
}

}  // namespace onset
