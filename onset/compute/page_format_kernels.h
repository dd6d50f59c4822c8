// What page_format.cc and its kernels compiled for each instruction set share.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onset {

struct PageFormatKernels {
  // Rotates `numbers` (blocks of `block`; as rotate_head() does), divides them by scale = largest magnitude /
  // 127 (at least smallest_scale), rounds, adds `offset` (0 or 128) and stores them as bytes, up to the next
  // multiple of 64 past head_size. Returns the scale. Overwrites the numbers; both arrays have room for the
  // next multiple of 64.
  float (*quantize)(float* numbers, int head_size, int block, int offset, uint8_t* bytes);
  // The same with 4 bits: numbers * inverse scale + zero as bytes of 0..15, with the zero that fits.
  float (*quantize_nibbles)(float* numbers, int head_size, int block, uint8_t* zero, uint8_t* bytes);
  // Copies `count` slots of int8 keys and turns them, as move_slots() does. Words lie page_slots * 4 bytes apart, a slot's next to the
  // slot before it; cosines and sines begin at the first slot's. plane: [head_size][page_slots] of scratch.
  void (*move_keys)(const unsigned char* from, const float* from_scales, unsigned char* to, float* to_scales, int head_size, int block,
                    int count, const float* cosines, const float* sines, int pairs, int neighbours, float* plane);
  // The int8 keys of all slots: plane[head_size][page_slots].
  void (*read_keys)(const unsigned char* from, const float* scales, int head_size, int block, float* plane);
};

// A head of zeros gets a scale so small that it never decides a tile's largest weight.
inline constexpr float smallest_scale = 0x1p-40f;

// page_tokens, which kernels cannot include.
inline constexpr int page_slots = 64;

extern const PageFormatKernels page_format_generic;
#if defined(__x86_64__)
extern const PageFormatKernels page_format_avx2, page_format_avx512;
#endif

}  // namespace onset
