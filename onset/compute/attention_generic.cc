// Attention for any CPU.
#include "onset/compute/lanes_generic.inc"

namespace onset {
namespace {

ONSET_INLINE Ints dot_shorts(Ints sum, Ints a, Ints b) {
  return sum + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
}
constexpr int key_rows = 4, value_rows = 4;

}  // namespace
}  // namespace onset

#include "onset/compute/attention_kernels.inc"

namespace onset {
const AttentionKernels attention_generic = attention_kernels;
}  // namespace onset
