// The loading controller of CacheBlend (arXiv:2405.16444, section 5): how much is computed again, and from which device what is known
// comes, so that computing hides loading.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "onset/base/status.h"

namespace onset {

// Bytes that a token's keys and values take: 2 * layers * KV heads * head size * bytes of a number.
inline double key_value_bytes(int64_t layers, int64_t kv_heads, int64_t head_size, double bytes_of_number) {
  return 2.0 * static_cast<double>(layers * kv_heads * head_size) * bytes_of_number;
}

// One device: the share of tokens that can be computed again while the rest is loaded, load / prefill, but no less than `least`; 1 (compute
// all, load nothing) where loading takes longer than computing everything. Both in seconds, of the same tokens. An unknown time is 0.
double hiding_ratio(double prefill_seconds, double load_seconds, double least);

struct StorageDevice {
  std::string name;
  double bytes_per_second = 0;
  double price = 0;  // of keeping a byte for a second, in any currency
};

struct DeviceChoice {
  int32_t device = -1;      // -1: none; everything is computed
  double load_seconds = 0;  // with it
};

// A fixed ratio: the cheapest device that loads in no more time than computing the ratio again takes; without one the device that loads
// quickest, or none if that takes longer than computing everything. Errors: invalid_argument for no device, or one without a speed.
Result<DeviceChoice> choose_device(std::span<const StorageDevice> devices, double bytes, double prefill_seconds, double ratio);

// When the first token comes, layer by layer: a layer is computed when it is loaded and the one before it is computed; loading never waits.
// Both lists in seconds for each layer.
double pipelined_seconds(std::span<const double> load, std::span<const double> compute);

}  // namespace onset
