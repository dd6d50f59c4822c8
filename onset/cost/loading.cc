#include "onset/cost/loading.h"

#include <algorithm>

namespace onset {

double hiding_ratio(double prefill_seconds, double load_seconds, double least) {
  if (prefill_seconds <= 0 || load_seconds <= 0) return least;
  return std::min(1.0, std::max(load_seconds / prefill_seconds, least));
}

Result<DeviceChoice> choose_device(std::span<const StorageDevice> devices, double bytes, double prefill_seconds, double ratio) {
  if (devices.empty()) return error(Code::invalid_argument, "there is no device to choose from");
  DeviceChoice cheapest, quickest;
  for (size_t i = 0; i < devices.size(); ++i) {
    const StorageDevice& device = devices[i];
    if (!(device.bytes_per_second > 0)) {
      return error(Code::invalid_argument, "device {} loads {} bytes a second, expected more than 0", device.name, device.bytes_per_second);
    }
    const DeviceChoice choice{.device = static_cast<int32_t>(i), .load_seconds = bytes / device.bytes_per_second};
    if (quickest.device < 0 || choice.load_seconds < quickest.load_seconds) quickest = choice;
    if (choice.load_seconds > ratio * prefill_seconds) continue;
    if (cheapest.device < 0 || device.price < devices[cheapest.device].price) cheapest = choice;
  }
  if (cheapest.device >= 0) return cheapest;
  return quickest.load_seconds > prefill_seconds ? DeviceChoice() : quickest;
}

double pipelined_seconds(std::span<const double> load, std::span<const double> compute) {
  double loaded = 0, computed = 0;
  for (size_t layer = 0; layer < compute.size(); ++layer) {
    if (layer < load.size()) loaded += load[layer];
    computed = std::max(computed, loaded) + compute[layer];
  }
  return computed;
}

}  // namespace onset
