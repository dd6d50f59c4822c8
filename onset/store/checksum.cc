#include "onset/store/checksum.h"

#include <openssl/evp.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

namespace onset {

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr);
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;

void Sha256::add(std::span<const std::byte> bytes) {
  EVP_DigestUpdate(state_->context, bytes.data(), bytes.size());
}

std::string Sha256::finish() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_DigestFinal_ex(state_->context, digest, &size);
  std::string text;
  for (unsigned int i = 0; i < size; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

Result<std::string> sha256_of_file(const std::filesystem::path& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) return error(Code::failed, "{}: {}", path.string(), std::strerror(errno));
  Sha256 sum;
  std::vector<std::byte> block(1 << 20);
  size_t read = 0;
  while ((read = std::fread(block.data(), 1, block.size(), file)) > 0) sum.add({block.data(), read});
  const bool failed = std::ferror(file) != 0;
  std::fclose(file);
  if (failed) return error(Code::failed, "{}: {}", path.string(), std::strerror(errno));
  return sum.finish();
}

}  // namespace onset
