// Which blocks of keys the heads of some layers visited, as SVG.
#pragma once

#include <string>
#include <vector>

namespace onset {

// Of one head: the share of each block that was visited, queries downwards and keys to the right; below 0: nothing is to be seen there.
struct BlockPanel {
  std::string title;
  std::vector<std::vector<float>> shares;  // [query block][key block], one list of a length for all
};

// A bar for each layer.
struct LayerBars {
  std::string name;
  std::vector<double> values;  // 0 to 1
};

struct BlockPicture {
  std::string title, note;                     // the note stands below the title
  std::vector<std::vector<BlockPanel>> lines;  // panels side by side, a line for each layer
  std::vector<LayerBars> bars;                 // below
};
std::string block_picture_svg(const BlockPicture& picture);

}  // namespace onset
