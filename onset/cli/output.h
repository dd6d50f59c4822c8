// What the program writes: text to standard output, progress and notes to standard error.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "onset/base/status.h"

namespace onset::cli {

// Writes to standard output at once. Errors: failed ("standard output: No space left on device"), cancelled without a message when the
// reader has gone (head, a closed pager): a reason to stop, not to complain.
Status write_out(std::string_view text);

// One JSON value and a line feed. Bytes that are not UTF-8 become U+FFFD.
Status write_json(const nlohmann::ordered_json& value);

// A line on standard error, "onset: ..." in front.
void note(std::string_view text);

// A bar on standard error while something takes its time; nothing at all where standard error is no terminal. Updates may come
// from any thread. Gone when the object is.
class ProgressBar {
 public:
  explicit ProgressBar(std::string title);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // share: 0 to 1.
  void update(double share) { update(share, {}); }
  // `detail` stands behind the bar.
  void update(double share, std::string_view detail);

 private:
  std::string title_;
  bool terminal_;
  bool drawn_ = false;
  std::mutex mutex_;
  std::chrono::steady_clock::time_point began_, last_;
};

// "96.2 MiB".
std::string bytes_text(double bytes);

// The most memory this process had so far (the kernel's figure).
size_t peak_memory_bytes();

// Columns side by side, the first left-aligned, the others right-aligned; the first row is the heading.
std::string table_text(const std::vector<std::vector<std::string>>& rows);

}  // namespace onset::cli
