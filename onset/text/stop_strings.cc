#include "onset/text/stop_strings.h"

#include <algorithm>
#include <utility>

namespace onset {

Result<StopStrings> StopStrings::create(std::vector<std::string> stops) {
  StopStrings watcher;
  for (std::string& text : stops) {
    if (text.empty()) return error(Code::invalid_argument, "a stop string must not be empty");
    Stop stop{std::move(text), {0, 0}, 0};
    for (size_t i = 1, border = 0; i < stop.text.size(); ++i) {
      while (border > 0 && stop.text[i] != stop.text[border]) border = stop.fallback[border];
      if (stop.text[i] == stop.text[border]) ++border;
      stop.fallback.push_back(border);
    }
    watcher.stops_.push_back(std::move(stop));
  }
  return watcher;
}

std::string StopStrings::push(std::string_view text) {
  if (stopped_) return {};
  for (const char byte : text) {
    held_.push_back(byte);
    for (size_t i = 0; i < stops_.size(); ++i) {
      Stop& stop = stops_[i];
      while (stop.matched > 0 && stop.text[stop.matched] != byte) stop.matched = stop.fallback[stop.matched];
      if (stop.text[stop.matched] == byte) ++stop.matched;
      const bool complete = stop.matched == stop.text.size();
      if (complete && (!stopped_ || stop.text.size() > stops_[*stopped_].text.size())) stopped_ = i;
    }
    if (!stopped_) continue;
    held_.resize(held_.size() - stops_[*stopped_].text.size());
    return std::exchange(held_, std::string());
  }
  size_t kept = 0;
  for (const Stop& stop : stops_) kept = std::max(kept, stop.matched);
  std::string free = held_.substr(0, held_.size() - kept);
  held_.erase(0, held_.size() - kept);
  return free;
}

std::string StopStrings::finish() {
  for (Stop& stop : stops_) stop.matched = 0;
  return std::exchange(held_, std::string());
}

}  // namespace onset
