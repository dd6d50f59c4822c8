// Pictures: what stands in them.
#include <gtest/gtest.h>

#include <algorithm>

#include "onset/load/block_picture.h"
#include "onset/load/heat_map.h"

namespace onset {
namespace {

size_t times(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

void expect_svg(const std::string& svg) {
  EXPECT_TRUE(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
  EXPECT_EQ(times(svg, "<g"), times(svg, "</g>"));
  EXPECT_EQ(times(svg, "<text"), times(svg, "</text>"));
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
}

TEST(HeatMap, HasEveryCellInTheColourOfItsValue) {
  const HeatMap map{.title = "a < b", .columns = {"512", "1024"}, .rows = {"0", "100"}, .cells = {{0.0, 1.0}, {std::nullopt, 0.5}}};
  const std::string svg = heat_maps_svg(
      {.title = "needles", .x = "tokens", .y = "depth", .lines = {{"exact", {map, map}}, {"likely", {map}}}, .legend = "found"});
  expect_svg(svg);
  EXPECT_EQ(times(svg, "a &lt; b"), 3u);
  EXPECT_EQ(times(svg, "fill='#a50026' stroke"), 3u);  // nothing, and everything
  EXPECT_EQ(times(svg, "fill='#2b788e' stroke"), 3u);
  EXPECT_EQ(times(svg, "fill='#eee'"), 3u);
  EXPECT_EQ(times(svg, ">50</text>"), 3u);
  EXPECT_NE(svg.find("50 %"), std::string::npos);
}

TEST(BlockPicture, DrawsEachHeadAndEachLayer) {
  const BlockPanel head{.title = "head 1 & 2", .shares = {{1, -1, -1}, {1, 1, -1}, {0, 0.01f, 1}}};
  const std::string svg =
      block_picture_svg({.title = "model", .note = "3 blocks", .lines = {{head, head}}, .bars = {{.name = "rows", .values = {1, 0.5, 0}}}});
  expect_svg(svg);
  EXPECT_EQ(times(svg, "head 1 &amp; 2"), 2u);
  // Full blocks: one in the first line, two together in the second, the last one of the third.
  EXPECT_EQ(times(svg, "<path d='M0 0h1v1h-1zM0 1h2v1h-2zM2 2h1v1h-1z' fill='#08306b'/>"), 2u);
  EXPECT_EQ(times(svg, "<path d='M1 2h1v1h-1z' fill='#c6dbef'/>"), 2u);  // a little of it
  EXPECT_EQ(times(svg, "<path d='M0 2h1v1h-1z' fill='#f2ece2'/>"), 2u);  // not visited
  EXPECT_EQ(times(svg, "height='70.0' fill='#2171b5'"), 1u);
  EXPECT_EQ(times(svg, "height='35.0' fill='#2171b5'"), 1u);
}

TEST(BlockPicture, ManyHeadsGoIntoSeveralLines) {
  const std::vector<BlockPanel> heads(20, {.title = "head", .shares = {{1}}});
  const std::string svg = block_picture_svg({.title = "model", .note = "", .lines = {heads, heads}, .bars = {}});
  expect_svg(svg);
  EXPECT_EQ(times(svg, ">head</text>"), 40u);
  EXPECT_NE(svg.find("viewBox='0 0 1348 "), std::string::npos);  // nine of them side by side
}

}  // namespace
}  // namespace onset
