#include "onset/compute/rotation.h"

#include <initializer_list>

namespace onset {

Rotation rotation_for(int64_t count) {
  Rotation rotation = {};
  rotation.count = count;
  rotation.power = count & -count;
  int64_t left = count / rotation.power;
  constexpr int room = sizeof(rotation.factor) / sizeof(rotation.factor[0]);
  for (const int64_t prime : {3, 5, 7, 11, 13}) {
    for (; left % prime == 0 && rotation.factors < room; left /= prime) rotation.factor[rotation.factors++] = prime;
  }
  return rotation;
}

}  // namespace onset
