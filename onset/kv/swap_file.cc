#include "onset/kv/swap_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace onset {

Result<SwapFile> SwapFile::create(const std::filesystem::path& folder, size_t page_bytes, int64_t most_pages) {
  if (page_bytes == 0 || most_pages < 1 || page_bytes > (size_t{1} << 46) / static_cast<size_t>(most_pages)) {
    return error(Code::invalid_argument, "swap file: {} pages of {} bytes is not a size that can be had", most_pages, page_bytes);
  }
  SwapFile file;
  file.folder_ = folder;
  file.page_bytes_ = page_bytes;
  file.most_pages_ = most_pages;
  std::string name = (folder / "onset-swap-XXXXXX").string();
  file.descriptor_ = ::mkostemp(name.data(), O_CLOEXEC);
  if (file.descriptor_ < 0) return error(Code::failed, "{}: no swap file can be made there: {}", folder.string(), std::strerror(errno));
  ::unlink(name.c_str());
  return file;
}

SwapFile::SwapFile(SwapFile&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      folder_(std::move(other.folder_)),
      page_bytes_(other.page_bytes_),
      most_pages_(other.most_pages_),
      places_(other.places_),
      free_(std::move(other.free_)) {}

SwapFile::~SwapFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Result<int64_t> SwapFile::write(const std::byte* page) {
  if (free_pages() == 0) return error(Code::resource_exhausted, "the swap file in {} holds its {} pages", folder_.string(), most_pages_);
  const int64_t place = free_.empty() ? places_ : free_.back();
  for (size_t done = 0; done < page_bytes_;) {
    const auto offset = static_cast<off_t>(static_cast<size_t>(place) * page_bytes_ + done);
    const ssize_t written = ::pwrite(descriptor_, page + done, page_bytes_ - done, offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      const bool full = written == 0 || errno == ENOSPC || errno == EFBIG || errno == EDQUOT;
      return error(full ? Code::resource_exhausted : Code::failed, "the swap file in {} cannot be written: {}", folder_.string(),
                   std::strerror(written == 0 ? ENOSPC : errno));
    }
    done += static_cast<size_t>(written);
  }
  if (free_.empty()) {
    ++places_;
  } else {
    free_.pop_back();
  }
  return place;
}

Status SwapFile::read(int64_t place, std::byte* page) const {
  for (size_t done = 0; done < page_bytes_;) {
    const auto offset = static_cast<off_t>(static_cast<size_t>(place) * page_bytes_ + done);
    const ssize_t got = ::pread(descriptor_, page + done, page_bytes_ - done, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      return error(Code::failed, "the swap file in {} cannot be read back: {}", folder_.string(),
                   got == 0 ? "it ends too soon" : std::strerror(errno));
    }
    done += static_cast<size_t>(got);
  }
  return {};
}

}  // namespace onset
