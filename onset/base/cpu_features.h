// Which instruction set the kernels use: asked from the CPU once, overridable by ONSET_ISA.
#pragma once

#include <span>
#include <string_view>

#include "onset/base/status.h"

namespace onset {

// Instruction sets that kernels are built for, from plain to best. Each includes the ones before it.
enum class Isa {
  generic,   // portable C++
  avx2,      // AVX2, FMA, F16C
  avx_vnni,  // 256-bit int8 dot products: AVX-VNNI, or AVX-512 VNNI with VL used at 256 bits
  avx512,    // AVX-512 F/BW/DQ/VL + VNNI + BF16
};

// "generic", "avx2", "avx-vnni", "avx512": also the words that ONSET_ISA takes.
const char* isa_name(Isa isa);

// Whether this CPU (and its operating system) can run kernels of `isa`.
bool cpu_supports(Isa isa);

// Whether 256-bit int8 dot products must use the EVEX encoding: the CPU has AVX-512 VNNI and VL but no AVX-VNNI.
bool vnni256_is_evex();

// The best supported instruction set, or the one ONSET_ISA names.
// Errors: invalid_argument for an unknown word, unsupported for one that this CPU lacks.
Result<Isa> choose_isa();

}  // namespace onset
