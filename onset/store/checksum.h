// SHA-256 of bytes that come piece by piece.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "onset/base/status.h"

namespace onset {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  void add(std::span<const std::byte> bytes);
  // The digest of all bytes so far as 64 lower-case hexadecimal digits; nothing may be added afterwards.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Of a whole file. Errors: those of opening and reading it.
Result<std::string> sha256_of_file(const std::filesystem::path& path);

}  // namespace onset
