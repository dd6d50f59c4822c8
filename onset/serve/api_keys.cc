#include <openssl/crypto.h>
#include <openssl/sha.h>

#include "onset/base/mapped_file.h"
#include "onset/serve/server.h"

namespace onset::serve {
namespace {

std::string digest(std::string_view text) {
  std::string bytes(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), reinterpret_cast<unsigned char*>(bytes.data()));
  return bytes;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blanks = " \t\r";
  const size_t begin = text.find_first_not_of(blanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(blanks) + 1 - begin);
}

}  // namespace

Result<ApiKeys> ApiKeys::read(const std::filesystem::path& path) {
  ONSET_ASSIGN(const std::string text, read_file(path));
  ApiKeys keys;
  int number = 0;
  for (size_t begin = 0; begin < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = trimmed(std::string_view(text).substr(begin, end - begin));
    begin = end + 1;
    if (line.empty() || line.front() == '#') continue;
    for (const char c : line) {
      if (c <= ' ' || c > '~') {
        return error(Code::invalid_argument, "{}: line {} is no key: expected one word of visible ASCII characters", path.string(),
                     number + 1);
      }
    }
    keys.digests_.push_back(digest(line));
  }
  if (keys.digests_.empty())
    return error(Code::invalid_argument, "{}: expected one API key or more, each on a line of its own", path.string());
  return keys;
}

std::optional<std::string> ApiKeys::find(std::string_view authorization) const {
  constexpr std::string_view scheme = "Bearer ";
  const bool bearer = authorization.starts_with(scheme);
  std::string given = digest(bearer ? trimmed(authorization.substr(scheme.size())) : std::string_view());
  int found = 0;
  for (const std::string& known : digests_) found |= CRYPTO_memcmp(known.data(), given.data(), given.size()) == 0;
  if (!bearer || found == 0) return std::nullopt;
  return given;
}

}  // namespace onset::serve
