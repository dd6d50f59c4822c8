// Downloads through libcurl: https only, going on where an earlier attempt broke off.
#include <curl/curl.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>

#include "onset/base/mapped_file.h"
#include "onset/store/checksum.h"
#include "onset/store/pull.h"

namespace onset {
namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

// One transfer: the file that grows, and what the server said about it.
struct Transfer {
  int descriptor = -1;
  int64_t begun_at = 0;  // bytes that were there before
  int64_t received = 0;
  int write_errno = 0;
  long status = 0;        // of the response whose headers are being read
  std::string validator;  // its ETag, or when it was last modified
  const PullProgress* progress = nullptr;
  std::string what;

  ~Transfer() {
    if (descriptor >= 0) close(descriptor);
  }
};

size_t on_header(char* data, size_t, size_t size, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  const std::string line(data, size);
  const auto value_after = [&](const char* name) -> std::string {
    const std::string start = std::string(name) + ":";
    if (lower(line.substr(0, start.size())) != start) return {};
    const size_t begin = line.find_first_not_of(" \t", start.size());
    const size_t end = line.find_last_not_of(" \t\r\n");
    return begin == std::string::npos || end < begin ? std::string() : line.substr(begin, end - begin + 1);
  };
  if (line.starts_with("HTTP/")) {
    transfer.validator.clear();
    const size_t space = line.find(' ');
    transfer.status = space == std::string::npos ? 0 : std::strtol(line.c_str() + space, nullptr, 10);
  }
  if (const std::string tag = value_after("etag"); !tag.empty() && !tag.starts_with("W/")) transfer.validator = tag;
  if (const std::string date = value_after("last-modified"); !date.empty() && transfer.validator.empty()) transfer.validator = date;
  return size;
}

size_t on_data(char* data, size_t, size_t size, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  // A server that sends everything again (200, not 206) makes the file begin anew.
  if (transfer.received == 0 && transfer.begun_at > 0 && transfer.status != 206) {
    transfer.begun_at = 0;
    if (ftruncate(transfer.descriptor, 0) != 0 || lseek(transfer.descriptor, 0, SEEK_SET) != 0) {
      transfer.write_errno = errno;
      return 0;
    }
  }
  for (size_t done = 0; done < size;) {
    const ssize_t written = write(transfer.descriptor, data + done, size - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      transfer.write_errno = errno;
      return 0;
    }
    done += static_cast<size_t>(written);
  }
  transfer.received += static_cast<int64_t>(size);
  return size;
}

int on_progress(void* user, curl_off_t total, curl_off_t now, curl_off_t, curl_off_t) {
  const auto& transfer = *static_cast<const Transfer*>(user);
  const int64_t all = total > 0 ? transfer.begun_at + total : 0;
  return !*transfer.progress || (*transfer.progress)(transfer.what, transfer.begun_at + now, all) ? 0 : 1;
}

struct CurlDeleter {
  void operator()(CURL* handle) const { curl_easy_cleanup(handle); }
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

// The file that keeps, beside the part, which version of the file the part is of.
std::filesystem::path validator_path(const std::filesystem::path& part) {
  return part.string() + ".version";
}

Status open_part(const std::filesystem::path& part, Transfer& transfer, std::string& known_validator) {
  std::error_code ignored;
  std::filesystem::create_directories(part.parent_path(), ignored);
  if (Result<std::string> version = read_file(validator_path(part)); version.ok()) known_validator = *version;
  transfer.descriptor = open(part.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (transfer.descriptor < 0) return error(Code::failed, "{}: {}", part.string(), std::strerror(errno));
  // Without knowing which version it is of, a part is worth nothing.
  const off_t size = known_validator.empty() ? 0 : lseek(transfer.descriptor, 0, SEEK_END);
  if (size < 0 || (size == 0 && ftruncate(transfer.descriptor, 0) != 0)) {
    return error(Code::failed, "{}: {}", part.string(), std::strerror(errno));
  }
  transfer.begun_at = size;
  return {};
}

Status status_of(CURLcode code, const Transfer& transfer, const std::string& address, const std::filesystem::path& part,
                 const char* details) {
  if (transfer.write_errno != 0) {
    const bool full = transfer.write_errno == ENOSPC || transfer.write_errno == EDQUOT || transfer.write_errno == EFBIG;
    return error(full ? Code::resource_exhausted : Code::failed, "{}: {}", part.string(),
                 full ? "the disk is full" : std::strerror(transfer.write_errno));
  }
  if (code == CURLE_ABORTED_BY_CALLBACK) return Status(Code::cancelled, "stopped; what was received is kept");
  if (code == CURLE_HTTP_RETURNED_ERROR) return error(Code::failed, "{}: the server answered {}", address, transfer.status);
  if (code != CURLE_OK) return error(Code::failed, "{}: {}", address, details[0] != '\0' ? details : curl_easy_strerror(code));
  return {};
}

// One attempt; `restart` says that the part there was of no use and that another attempt should begin anew.
Status transfer_once(const std::string& address, const std::filesystem::path& part, const PullProgress& progress, bool& restart) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  const std::unique_ptr<CURL, CurlDeleter> handle(curl_easy_init());
  if (handle == nullptr) return error(Code::failed, "libcurl cannot be used");
  Transfer transfer;
  transfer.progress = &progress;
  transfer.what = part.stem().string();
  std::string known_validator;
  ONSET_TRY(open_part(part, transfer, known_validator));

  char details[CURL_ERROR_SIZE] = "";
  CURL* curl = handle.get();
  curl_easy_setopt(curl, CURLOPT_URL, address.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS, static_cast<long>(CURLPROTO_HTTPS));
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS, static_cast<long>(CURLPROTO_HTTPS));
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl, CURLOPT_MAXREDIRS, 10L);
  curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 30L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);  // nothing for a minute is a broken connection
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, 60L);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "onset");
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, details);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &transfer);
  if (const char* certificates = std::getenv("SSL_CERT_FILE"); certificates != nullptr && *certificates != '\0') {
    curl_easy_setopt(curl, CURLOPT_CAINFO, certificates);
  }
  std::unique_ptr<curl_slist, CurlDeleter> headers;
  if (transfer.begun_at > 0) {
    curl_easy_setopt(curl, CURLOPT_RESUME_FROM_LARGE, static_cast<curl_off_t>(transfer.begun_at));
    headers.reset(curl_slist_append(nullptr, ("If-Range: " + known_validator).c_str()));
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
  }
  const CURLcode code = curl_easy_perform(curl);
  // 416: the part is as long as the file, or longer (some versions of curl call that a success). A server that cannot
  // resume at all makes curl say so.
  restart = transfer.begun_at > 0 && transfer.write_errno == 0 && (transfer.status == 416 || code == CURLE_RANGE_ERROR);
  std::error_code ignored;
  if (restart) {
    std::filesystem::remove(part, ignored);
    std::filesystem::remove(validator_path(part), ignored);
    return {};
  }
  const Status status = status_of(code, transfer, address, part, details);
  if (!status.ok()) {
    // So that the next attempt can go on.
    if (!transfer.validator.empty() && transfer.received > 0) {
      if (Result<AtomicFile> version = AtomicFile::create(validator_path(part)); version.ok()) {
        if (version->write(transfer.validator).ok()) static_cast<void>(version->commit().ok());
      }
    }
    return status;
  }
  if (fsync(transfer.descriptor) != 0) return error(Code::failed, "{}: {}", part.string(), std::strerror(errno));
  return {};
}

Status check_request(const std::string& address, const std::string& sha256) {
  if (lower(address.substr(0, 8)) != "https://") {
    return error(Code::invalid_argument, "{} is not an address to download from: expected https://...", address);
  }
  const bool digits = std::all_of(sha256.begin(), sha256.end(), [](unsigned char c) { return std::isxdigit(c) != 0; });
  if (!sha256.empty() && (sha256.size() != 64 || !digits)) {
    return error(Code::invalid_argument, "{} is not a SHA-256: expected 64 hexadecimal digits", sha256);
  }
  return {};
}

}  // namespace

Result<std::string> file_name_of(const std::string& address) {
  std::string path = address.substr(0, address.find_first_of("?#"));
  const size_t scheme = path.find("://");
  const size_t slash = path.rfind('/');
  const std::string name = slash == std::string::npos ? "" : path.substr(slash + 1);
  if (scheme == std::string::npos || slash < scheme + 3 || name.empty() || name == "." || name == "..") {
    return error(Code::invalid_argument, "{} does not end in a file name: say where to with --output", address);
  }
  return name;
}

Status download(const std::string& address, const std::filesystem::path& destination, const std::string& sha256,
                const PullProgress& progress) {
  ONSET_TRY(check_request(address, sha256));
  const std::filesystem::path part = destination.string() + ".part";
  bool restart = false;
  ONSET_TRY(transfer_once(address, part, progress, restart));
  if (restart) ONSET_TRY(transfer_once(address, part, progress, restart));
  std::error_code problem;
  if (!sha256.empty()) {
    ONSET_ASSIGN(const std::string digest, sha256_of_file(part));
    if (digest != lower(sha256)) {
      std::filesystem::remove(part, problem);
      std::filesystem::remove(validator_path(part), problem);
      return error(Code::failed, "{}: its SHA-256 is {}, expected {}; nothing was kept", address, digest, lower(sha256));
    }
  }
  std::filesystem::rename(part, destination, problem);
  if (problem) return error(Code::failed, "{}: {}", destination.string(), problem.message());
  std::filesystem::remove(validator_path(part), problem);
  return {};
}

}  // namespace onset
