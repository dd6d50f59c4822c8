#include "onset/compute/page_format.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "onset/compute/page_format_kernels.h"
#include "onset/tensor/dtype.h"

namespace onset {
namespace {

static_assert(page_slots == page_tokens);

constexpr size_t round_up(size_t bytes, size_t step) {
  return (bytes + step - 1) / step * step;
}

size_t value_bytes(KvType type) {
  switch (type) {
    case KvType::f32:
      return 4;
    case KvType::f16:
      return 2;
    case KvType::bf16:
      return 2;
    case KvType::int8:
    case KvType::int4:
      return 1;
  }
  return 4;
}

int word_values(KvType type) {
  switch (type) {
    case KvType::f32:
      return 1;
    case KvType::f16:
      return 1;
    case KvType::bf16:
      return 2;
    case KvType::int8:
    case KvType::int4:
      return 4;
  }
  return 1;
}

// Index (in values) of d of a slot among the keys, and among the values.
size_t key_index(const HeadLayout& layout, int slot, int d) {
  return (static_cast<size_t>(d / layout.word) * page_tokens + static_cast<size_t>(slot)) * static_cast<size_t>(layout.word) +
         static_cast<size_t>(d % layout.word);
}
size_t value_index(const HeadLayout& layout, int slot, int d) {
  return (static_cast<size_t>(slot / layout.word) * static_cast<size_t>(layout.padded) + static_cast<size_t>(d)) *
             static_cast<size_t>(layout.word) +
         static_cast<size_t>(slot % layout.word);
}

void store(KvType type, std::byte* part, size_t index, float value) {
  switch (type) {
    case KvType::f32:
      std::memcpy(part + index * 4, &value, 4);
      break;
    case KvType::f16: {
      const uint16_t half = f32_to_f16(value);
      std::memcpy(part + index * 2, &half, 2);
      break;
    }
    case KvType::bf16: {
      const uint16_t half = f32_to_bf16(value);
      std::memcpy(part + index * 2, &half, 2);
      break;
    }
    case KvType::int8:
    case KvType::int4:
      break;
  }
}

float load(KvType type, const std::byte* part, size_t index) {
  float value = 0;
  uint16_t half = 0;
  switch (type) {
    case KvType::f32:
      std::memcpy(&value, part + index * 4, 4);
      return value;
    case KvType::f16:
      std::memcpy(&half, part + index * 2, 2);
      return f16_to_f32(half);
    case KvType::bf16:
      std::memcpy(&half, part + index * 2, 2);
      return bf16_to_f32(half);
    case KvType::int8:
    case KvType::int4:
      break;
  }
  return value;
}

const PageFormatKernels& kernels_for(Isa isa) {
  switch (isa) {
    case Isa::generic:
      break;
#if defined(__x86_64__)
    case Isa::avx2:
    case Isa::avx_vnni:
      return page_format_avx2;
    case Isa::avx512:
      return page_format_avx512;
#else
    default:
      break;
#endif
  }
  return page_format_generic;
}

// Room for a head's numbers and its bytes, up to the next multiple of 64.
class HeadRoom {
 public:
  explicit HeadRoom(int head_size) {
    if (head_size <= usual_size) return;
    many_numbers_.resize(round_up(static_cast<size_t>(head_size), 64));
    many_bytes_.resize(many_numbers_.size());
    numbers = many_numbers_.data();
    bytes = many_bytes_.data();
  }
  HeadRoom(const HeadRoom&) = delete;
  HeadRoom& operator=(const HeadRoom&) = delete;

 private:
  static constexpr int usual_size = 256;
  alignas(64) float numbers_[usual_size];
  alignas(64) uint8_t bytes_[usual_size];
  std::vector<float> many_numbers_;
  std::vector<uint8_t> many_bytes_;

 public:
  float* numbers = numbers_;
  uint8_t* bytes = bytes_;
};

void write_value_scale(const HeadLayout& layout, std::byte* head, int slot, float scale) {
  const size_t at = static_cast<size_t>(slot) * sizeof(float);
  const float log2_scale = std::log2(scale), inverse = 1.0f / scale;
  std::memcpy(head + layout.value_log2 + at, &log2_scale, sizeof log2_scale);
  std::memcpy(head + layout.value_inverse + at, &inverse, sizeof inverse);
}

// Rounds the room's numbers, which are rotated first where `block` is not 1, and stores them as the slot's key.
void put_int8_key(const PageFormatKernels& kernels, const HeadLayout& layout, int head_size, int block, std::byte* head, int slot,
                  HeadRoom& room) {
  const float scale = kernels.quantize(room.numbers, head_size, block, 128, room.bytes);
  std::byte* words = head + layout.keys + static_cast<size_t>(slot) * 4;
  for (int d = 0; d < layout.padded; d += 4) std::memcpy(words + static_cast<size_t>(d) * page_tokens, room.bytes + d, 4);
  std::memcpy(head + layout.key_scales + static_cast<size_t>(slot) * sizeof scale, &scale, sizeof scale);
}

// The same as the slot's value.
void put_int8_value(const PageFormatKernels& kernels, const HeadLayout& layout, int head_size, int block, std::byte* head, int slot,
                    HeadRoom& room) {
  const float scale = kernels.quantize(room.numbers, head_size, block, 0, room.bytes);
  std::byte* bytes = head + layout.values + value_index(layout, slot, 0);
  for (int d = 0; d < layout.padded; ++d) bytes[static_cast<size_t>(d) * 4] = static_cast<std::byte>(room.bytes[d]);
  write_value_scale(layout, head, slot, scale);
}

void write_int8(const PageFormatKernels& kernels, const HeadLayout& layout, int head_size, std::byte* head, int slot, const float* key,
                const float* value) {
  HeadRoom room(head_size);
  const int block = hadamard_block(head_size);
  std::memcpy(room.numbers, key, static_cast<size_t>(head_size) * sizeof(float));
  put_int8_key(kernels, layout, head_size, rotates_keys(KvType::int8) ? block : 1, head, slot, room);
  std::memcpy(room.numbers, value, static_cast<size_t>(head_size) * sizeof(float));
  put_int8_value(kernels, layout, head_size, rotates_values(KvType::int8) ? block : 1, head, slot, room);
}

// A slot's key or value as it is stored: still rotated.
void take_int8_key(const HeadLayout& layout, int head_size, const std::byte* head, int slot, float* key) {
  float scale = 0;
  std::memcpy(&scale, head + layout.key_scales + static_cast<size_t>(slot) * sizeof scale, sizeof scale);
  for (int d = 0; d < head_size; ++d)
    key[d] = scale * static_cast<float>(static_cast<int>(head[layout.keys + key_index(layout, slot, d)]) - 128);
}
void take_int8_value(const HeadLayout& layout, int head_size, const std::byte* head, int slot, float* value) {
  float inverse = 0;
  std::memcpy(&inverse, head + layout.value_inverse + static_cast<size_t>(slot) * sizeof inverse, sizeof inverse);
  for (int d = 0; d < head_size; ++d)
    value[d] = static_cast<float>(static_cast<int8_t>(head[layout.values + value_index(layout, slot, d)])) / inverse;
}

// Where number d of a slot lies among the nibbles of an int4 head: the byte, from the head's beginning, and whether it is the upper half.
struct Nibble {
  size_t byte;
  bool upper;
};
Nibble key_nibble(const HeadLayout& layout, int slot, int d) {
  const int word = d / 4;
  return {layout.keys + (static_cast<size_t>(word / 2) * page_tokens + static_cast<size_t>(slot)) * 4 + static_cast<size_t>(d % 4),
          word % 2 != 0};
}
Nibble value_nibble(const HeadLayout& layout, int slot, int d) {
  const int half = layout.padded / 2;
  return {layout.values + (static_cast<size_t>(slot / 4) * static_cast<size_t>(half) + static_cast<size_t>(d % half)) * 4 +
              static_cast<size_t>(slot % 4),
          d >= half};
}
int read_nibble(const std::byte* head, Nibble nibble) {
  const auto byte = static_cast<int>(head[nibble.byte]);
  return nibble.upper ? byte >> 4 : byte & 15;
}
// Lower halves are written before upper ones.
void write_nibble(std::byte* head, Nibble nibble, uint8_t value) {
  head[nibble.byte] = nibble.upper ? head[nibble.byte] | static_cast<std::byte>(value << 4) : static_cast<std::byte>(value);
}

void write_int4_key(const PageFormatKernels& kernels, const HeadLayout& layout, int head_size, std::byte* head, int slot,
                    const float* key) {
  HeadRoom room(head_size);
  std::memcpy(room.numbers, key, static_cast<size_t>(head_size) * sizeof(float));
  uint8_t zero = 0;
  const float scale = kernels.quantize_nibbles(room.numbers, head_size, hadamard_block(head_size), &zero, room.bytes);
  for (int d = 0; d < layout.padded; ++d) write_nibble(head, key_nibble(layout, slot, d), room.bytes[d]);
  std::memcpy(head + layout.key_scales + static_cast<size_t>(slot) * sizeof(float), &scale, sizeof scale);
  head[layout.key_zeros + static_cast<size_t>(slot)] = static_cast<std::byte>(zero);
}

void write_int4(const PageFormatKernels& kernels, const HeadLayout& layout, int head_size, std::byte* head, int slot, const float* key,
                const float* value) {
  write_int4_key(kernels, layout, head_size, head, slot, key);
  HeadRoom room(head_size);
  std::memcpy(room.numbers, value, static_cast<size_t>(head_size) * sizeof(float));
  uint8_t zero = 0;
  const float scale = kernels.quantize_nibbles(room.numbers, head_size, hadamard_block(head_size), &zero, room.bytes);
  for (int d = 0; d < layout.padded; ++d) write_nibble(head, value_nibble(layout, slot, d), room.bytes[d]);
  write_value_scale(layout, head, slot, scale);
  head[layout.value_zeros + static_cast<size_t>(slot)] = static_cast<std::byte>(zero);
}

void read_int4(const HeadLayout& layout, int head_size, const std::byte* head, int slot, float* key, float* value) {
  float key_scale = 0, value_inverse = 0;
  const auto at = static_cast<size_t>(slot);
  std::memcpy(&key_scale, head + layout.key_scales + at * sizeof(float), sizeof key_scale);
  std::memcpy(&value_inverse, head + layout.value_inverse + at * sizeof(float), sizeof value_inverse);
  const int key_zero = static_cast<int>(head[layout.key_zeros + at]), value_zero = static_cast<int>(head[layout.value_zeros + at]);
  for (int d = 0; d < head_size; ++d) {
    key[d] = key_scale * static_cast<float>(read_nibble(head, key_nibble(layout, slot, d)) - key_zero);
    value[d] = static_cast<float>(read_nibble(head, value_nibble(layout, slot, d)) - value_zero) / value_inverse;
  }
  rotate_head(key, head_size);
  rotate_head(value, head_size);
}

// The keys of an int4 head as an int8 head has them: [padded / 4][slot][4], 128 added.
std::vector<std::byte> key_bytes_of(const HeadLayout& layout, const std::byte* head) {
  std::vector<std::byte> bytes(static_cast<size_t>(layout.padded) * page_tokens);
  for (int d = 0; d < layout.padded; ++d) {
    for (int slot = 0; slot < page_tokens; ++slot) {
      const int zero = static_cast<int>(head[layout.key_zeros + static_cast<size_t>(slot)]) & 15;
      bytes[key_index(layout, slot, d)] = static_cast<std::byte>(read_nibble(head, key_nibble(layout, slot, d)) - zero + 128);
    }
  }
  return bytes;
}

void read_int8(const HeadLayout& layout, int head_size, const std::byte* head, int slot, float* key, float* value) {
  take_int8_key(layout, head_size, head, slot, key);
  take_int8_value(layout, head_size, head, slot, value);
  if (rotates_keys(KvType::int8)) rotate_head(key, head_size);
  if (rotates_values(KvType::int8)) rotate_head(value, head_size);
}

}  // namespace

HeadLayout head_layout(KvType type, int head_size) {
  HeadLayout layout;
  layout.word = word_values(type);
  layout.padded = static_cast<int>(round_up(static_cast<size_t>(head_size), 4));
  const size_t words = static_cast<size_t>(layout.padded) / 4, numbers = static_cast<size_t>(layout.padded) * page_tokens;
  // Of int4, pairs of words of keys share one.
  layout.values = type == KvType::int4 ? (words + 1) / 2 * 4 * page_tokens : round_up(numbers * value_bytes(type), 64);
  layout.bytes = layout.values + round_up(type == KvType::int4 ? numbers / 2 : numbers * value_bytes(type), 64);
  if (is_integer(type)) {
    const size_t scales = page_tokens * sizeof(float);
    layout.key_scales = layout.bytes;
    layout.value_log2 = layout.key_scales + scales;
    layout.value_inverse = layout.value_log2 + scales;
    layout.bytes = layout.value_inverse + scales;
  }
  if (type == KvType::int4) {
    layout.key_zeros = layout.bytes;
    layout.value_zeros = layout.key_zeros + page_tokens;
    layout.bytes = layout.value_zeros + page_tokens;
  }
  return layout;
}

size_t page_bytes(KvType type, int heads, int head_size) {
  return static_cast<size_t>(heads) * head_layout(type, head_size).bytes;
}

void rotate_head(float* values, int head_size) {
  const int block = hadamard_block(head_size);
  for (int half = 1; half < block; half *= 2) {
    for (int begin = 0; begin < head_size; begin += 2 * half) {
      for (int i = begin; i < begin + half; ++i) {
        const float a = values[i], b = values[i + half];
        values[i] = a + b;
        values[i + half] = a - b;
      }
    }
  }
  const float norm = 1.0f / std::sqrt(static_cast<float>(block));
  for (int i = 0; i < head_size; ++i) values[i] *= norm;
}

void write_slot(Isa isa, KvType type, int heads, int head_size, std::byte* page, int slot, const float* key, const float* value) {
  const HeadLayout layout = head_layout(type, head_size);
  for (int h = 0; h < heads; ++h, page += layout.bytes, key += head_size, value += head_size) {
    if (type == KvType::int8) {
      write_int8(kernels_for(isa), layout, head_size, page, slot, key, value);
      continue;
    }
    if (type == KvType::int4) {
      write_int4(kernels_for(isa), layout, head_size, page, slot, key, value);
      continue;
    }
    for (int d = 0; d < layout.padded; ++d) {
      store(type, page + layout.keys, key_index(layout, slot, d), d < head_size ? key[d] : 0.0f);
      store(type, page + layout.values, value_index(layout, slot, d), d < head_size ? value[d] : 0.0f);
    }
  }
}

void read_slot(KvType type, int heads, int head_size, const std::byte* page, int slot, float* key, float* value) {
  const HeadLayout layout = head_layout(type, head_size);
  for (int h = 0; h < heads; ++h, page += layout.bytes, key += head_size, value += head_size) {
    if (type == KvType::int8) {
      read_int8(layout, head_size, page, slot, key, value);
      continue;
    }
    if (type == KvType::int4) {
      read_int4(layout, head_size, page, slot, key, value);
      continue;
    }
    for (int d = 0; d < head_size; ++d) {
      key[d] = load(type, page + layout.keys, key_index(layout, slot, d));
      value[d] = load(type, page + layout.values, value_index(layout, slot, d));
    }
  }
}

namespace {

// In the space in which int8 pages are: what is added is rotated, what is there is not rotated back and forth.
void add_int8(const PageFormatKernels& kernels, const HeadLayout& layout, int head_size, std::byte* head, int slot, int count,
              const float* keys, size_t key_stride, const float* value) {
  HeadRoom room(head_size);
  std::vector<float> added(value, value + head_size);
  if (rotates_values(KvType::int8)) rotate_head(added.data(), head_size);
  for (int i = 0; i < count; ++i) {
    take_int8_value(layout, head_size, head, slot + i, room.numbers);
    for (int d = 0; d < head_size; ++d) room.numbers[d] += added[d];
    put_int8_value(kernels, layout, head_size, 1, head, slot + i, room);
  }
  for (int i = 0; i < count; ++i, keys += key_stride) {
    std::copy_n(keys, head_size, added.data());
    if (rotates_keys(KvType::int8)) rotate_head(added.data(), head_size);
    take_int8_key(layout, head_size, head, slot + i, room.numbers);
    for (int d = 0; d < head_size; ++d) room.numbers[d] += added[d];
    put_int8_key(kernels, layout, head_size, 1, head, slot + i, room);
  }
}

void add_int4(const PageFormatKernels& kernels, const HeadLayout& layout, int head_size, std::byte* head, int slot, int count,
              const float* keys, size_t key_stride, const float* value) {
  const auto size = static_cast<size_t>(head_size);
  std::vector<float> key_here(size), value_here(size);
  for (int i = 0; i < count; ++i, keys += key_stride) {
    read_int4(layout, head_size, head, slot + i, key_here.data(), value_here.data());
    for (size_t d = 0; d < size; ++d) {
      key_here[d] += keys[d];
      value_here[d] += value[d];
    }
    write_int4(kernels, layout, head_size, head, slot + i, key_here.data(), value_here.data());
  }
}

}  // namespace

void add_to_slots(Isa isa, KvType type, int heads, int head_size, std::byte* page, int slot, int count, const float* keys,
                  const float* value) {
  const HeadLayout layout = head_layout(type, head_size);
  const size_t width = static_cast<size_t>(heads) * static_cast<size_t>(head_size);
  for (int h = 0; h < heads; ++h, page += layout.bytes, keys += head_size, value += head_size) {
    if (type == KvType::int8) {
      add_int8(kernels_for(isa), layout, head_size, page, slot, count, keys, width, value);
      continue;
    }
    if (type == KvType::int4) {
      add_int4(kernels_for(isa), layout, head_size, page, slot, count, keys, width, value);
      continue;
    }
    for (int i = 0; i < count; ++i) {
      for (int d = 0; d < head_size; ++d) {
        const size_t key_at = key_index(layout, slot + i, d), value_at = value_index(layout, slot + i, d);
        store(type, page + layout.keys, key_at, load(type, page + layout.keys, key_at) + keys[static_cast<size_t>(i) * width + d]);
        store(type, page + layout.values, value_at, load(type, page + layout.values, value_at) + value[d]);
      }
    }
  }
}

void mean_key(KvType type, int heads, int head_size, const std::byte* page, int slots, float* mean) {
  const HeadLayout layout = head_layout(type, head_size);
  for (int h = 0; h < heads; ++h, page += layout.bytes, mean += head_size) {
    std::fill_n(mean, head_size, 0.0f);
    if (is_integer(type)) {
      // A rotation of the mean is the mean of the rotated.
      const std::vector<std::byte> expanded = type == KvType::int4 ? key_bytes_of(layout, page) : std::vector<std::byte>();
      const std::byte* bytes = type == KvType::int4 ? expanded.data() : page + layout.keys;
      float scales[page_tokens];
      std::memcpy(scales, page + layout.key_scales, sizeof scales);
      for (int d = 0; d < head_size; ++d) {
        const std::byte* keys = bytes + key_index(layout, 0, d);
        for (int slot = 0; slot < slots; ++slot)
          mean[d] += scales[slot] * static_cast<float>(static_cast<int>(keys[slot * layout.word]) - 128);
      }
      rotate_head(mean, head_size);
    } else {
      for (int d = 0; d < head_size; ++d) {
        for (int slot = 0; slot < slots; ++slot) mean[d] += load(type, page + layout.keys, key_index(layout, slot, d));
      }
    }
    for (int d = 0; d < head_size; ++d) mean[d] /= static_cast<float>(slots);
  }
}

void read_keys(Isa isa, KvType type, int head_size, const std::byte* head, float* plane) {
  const HeadLayout layout = head_layout(type, head_size);
  if (is_integer(type)) {
    const std::vector<std::byte> expanded = type == KvType::int4 ? key_bytes_of(layout, head) : std::vector<std::byte>();
    const std::byte* keys = type == KvType::int4 ? expanded.data() : head + layout.keys;
    kernels_for(isa).read_keys(reinterpret_cast<const unsigned char*>(keys), reinterpret_cast<const float*>(head + layout.key_scales),
                               head_size, hadamard_block(head_size), plane);
    return;
  }
  for (int d = 0; d < head_size; ++d) {
    for (int slot = 0; slot < page_tokens; ++slot)
      plane[d * page_tokens + slot] = load(type, head + layout.keys, key_index(layout, slot, d));
  }
}

namespace {

void move_slots_int8(const PageFormatKernels& kernels, const HeadLayout& layout, int head_size, const std::byte* from, int from_slot,
                     std::byte* to, int to_slot, int count, const KeyTurn& turn, float* plane) {
  const auto numbers = [](auto* bytes, size_t part, int slot) {
    using Float = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(bytes)>>, const float, float>;
    return reinterpret_cast<Float*>(bytes + part) + slot;
  };
  kernels.move_keys(reinterpret_cast<const unsigned char*>(from + layout.keys + key_index(layout, from_slot, 0)),
                    numbers(from, layout.key_scales, from_slot),
                    reinterpret_cast<unsigned char*>(to + layout.keys + key_index(layout, to_slot, 0)),
                    numbers(to, layout.key_scales, to_slot), head_size, hadamard_block(head_size), count, turn.cosines + to_slot,
                    turn.sines + to_slot, turn.pairs, turn.neighbours ? 1 : 0, plane);
  for (int i = 0; i < count; ++i) {
    const std::byte* source = from + layout.values + value_index(layout, from_slot + i, 0);
    std::byte* target = to + layout.values + value_index(layout, to_slot + i, 0);
    for (int d = 0; d < layout.padded; ++d) target[static_cast<size_t>(d) * 4] = source[static_cast<size_t>(d) * 4];
  }
  const size_t bytes = static_cast<size_t>(count) * sizeof(float);
  std::memcpy(numbers(to, layout.value_log2, to_slot), numbers(from, layout.value_log2, from_slot), bytes);
  std::memcpy(numbers(to, layout.value_inverse, to_slot), numbers(from, layout.value_inverse, from_slot), bytes);
}

// Values stay what they are.
void move_value_int4(const HeadLayout& layout, const std::byte* from, int from_slot, std::byte* to, int to_slot) {
  const auto source = static_cast<size_t>(from_slot), target = static_cast<size_t>(to_slot);
  for (int d = 0; d < layout.padded / 2; ++d) to[value_nibble(layout, to_slot, d).byte] = from[value_nibble(layout, from_slot, d).byte];
  for (const size_t scales : {layout.value_log2, layout.value_inverse}) {
    std::memcpy(to + scales + target * sizeof(float), from + scales + source * sizeof(float), sizeof(float));
  }
  to[layout.value_zeros + target] = from[layout.value_zeros + source];
}

void turn_key(float* key, int slot, const KeyTurn& turn) {
  for (int p = 0; p < turn.pairs; ++p) {
    float& first = key[turn.neighbours ? 2 * p : p];
    float& second = key[turn.neighbours ? 2 * p + 1 : p + turn.pairs];
    const float cosine = turn.cosines[p * page_tokens + slot], sine = turn.sines[p * page_tokens + slot], a = first, b = second;
    first = a * cosine - b * sine;
    second = b * cosine + a * sine;
  }
}

}  // namespace

void move_slots(Isa isa, KvType type, int heads, int head_size, const std::byte* from, int from_slot, std::byte* to, int to_slot, int count,
                const KeyTurn& turn) {
  const HeadLayout layout = head_layout(type, head_size);
  if (type == KvType::int8) {
    std::vector<float> plane(static_cast<size_t>(head_size) * page_tokens);
    for (int h = 0; h < heads; ++h) {
      const size_t head = static_cast<size_t>(h) * layout.bytes;
      move_slots_int8(kernels_for(isa), layout, head_size, from + head, from_slot, to + head, to_slot, count, turn, plane.data());
    }
    return;
  }
  std::vector<float> key(static_cast<size_t>(heads) * static_cast<size_t>(head_size)), value(key.size());
  for (int i = 0; i < count; ++i) {
    read_slot(type, heads, head_size, from, from_slot + i, key.data(), value.data());
    for (int h = 0; h < heads; ++h) turn_key(key.data() + static_cast<size_t>(h) * static_cast<size_t>(head_size), to_slot + i, turn);
    if (type == KvType::int4) {
      for (int h = 0; h < heads; ++h) {
        const size_t head = static_cast<size_t>(h) * layout.bytes;
        write_int4_key(kernels_for(isa), layout, head_size, to + head, to_slot + i,
                       key.data() + static_cast<size_t>(h) * static_cast<size_t>(head_size));
        move_value_int4(layout, from + head, from_slot + i, to + head, to_slot + i);
      }
      continue;
    }
    write_slot(isa, type, heads, head_size, to, to_slot + i, key.data(), value.data());
  }
}

}  // namespace onset
