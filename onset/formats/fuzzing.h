// What the fuzz targets of this room share: an input that stands for several files, and a folder to put them
// in.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace onset::fuzzing {

// Inputs are cut at this line.
inline constexpr std::string_view cut = "\n--8<--\n";

inline std::vector<std::string> pieces(std::string_view input) {
  std::vector<std::string> result;
  for (size_t at; (at = input.find(cut)) != std::string_view::npos; input.remove_prefix(at + cut.size())) {
    result.emplace_back(input.substr(0, at));
  }
  result.emplace_back(input);
  return result;
}

// In memory where the system has a place for that: a fuzzer writes thousands of files a second.
class Folder {
 public:
  Folder() {
    std::error_code ignored;
    const bool shared = std::filesystem::is_directory("/dev/shm", ignored);
    const std::filesystem::path parent = shared ? std::filesystem::path("/dev/shm") : std::filesystem::temp_directory_path();
    std::string name = (parent / "onset-fuzz-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }
  void put(const std::string& name, const std::string& bytes) const { std::ofstream(path_ / name, std::ios::binary) << bytes; }
  void clear() const {
    for (const auto& entry : std::filesystem::directory_iterator(path_)) std::filesystem::remove(entry.path());
  }

 private:
  std::filesystem::path path_;
};

}  // namespace onset::fuzzing
