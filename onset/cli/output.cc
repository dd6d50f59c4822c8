#include "onset/cli/output.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace onset::cli {
namespace {

using Clock = std::chrono::steady_clock;

Status write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EPIPE) return Status(Code::cancelled, "");
    if (written < 0) return error(Code::failed, "standard output: {}", std::strerror(errno));
    text.remove_prefix(static_cast<size_t>(written));
  }
  return {};
}

// Nobody can be told that standard error does not work.
void write_error(std::string_view text) {
  const Status ignored = write_all(STDERR_FILENO, text);
  static_cast<void>(ignored);
}

// Characters of well-formed UTF-8.
size_t width_of(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

}  // namespace

Status write_out(std::string_view text) {
  return write_all(STDOUT_FILENO, text);
}

Status write_json(const nlohmann::ordered_json& value) {
  return write_out(value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

void note(std::string_view text) {
  write_error(fmt::format("onset: {}\n", text));
}

ProgressBar::ProgressBar(std::string title)
    : title_(std::move(title)), terminal_(isatty(STDERR_FILENO) == 1), began_(Clock::now()), last_(began_) {}

ProgressBar::~ProgressBar() {
  if (drawn_) write_error("\r\033[K");
}

void ProgressBar::update(double share, std::string_view detail) {
  if (!terminal_) return;
  const std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  // What is over in no time needs no bar, and ten a second are enough for any eye.
  if (now - began_ < std::chrono::milliseconds(300) || now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  drawn_ = true;
  constexpr int width = 30;
  const int full = static_cast<int>(std::lround(std::clamp(share, 0.0, 1.0) * width));
  write_error(fmt::format("\r\033[K{} [{:█>{}}{: >{}}] {:3.0f} %{}{}", title_, "", full, "", width - full, 100 * share,
                          detail.empty() ? "" : "  ", detail));
}

std::string bytes_text(double bytes) {
  if (bytes < 1024) return fmt::format("{:.0f} B", bytes);
  const char* const units[] = {"KiB", "MiB", "GiB", "TiB"};
  int unit = -1;
  while (bytes >= 1024 && unit < 3) bytes /= 1024, ++unit;
  return fmt::format("{:.{}f} {}", bytes, bytes < 100 ? 1 : 0, units[unit]);
}

size_t peak_memory_bytes() {
  struct rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<size_t>(usage.ru_maxrss) * 1024;
}

std::string table_text(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    if (widths.size() < row.size()) widths.resize(row.size());
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string fill(widths[i] - width_of(row[i]), ' ');
      line += i == 0 ? row[i] + fill : "  " + fill + row[i];
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

}  // namespace onset::cli
