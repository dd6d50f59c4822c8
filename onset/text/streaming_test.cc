// Text that leaves in pieces: stop strings, and the Unicode helpers under the detokeniser.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "onset/text/detokenizer.h"
#include "onset/text/stop_strings.h"
#include "onset/text/unicode.h"

namespace onset {
namespace {

TEST(StopStrings, HoldBackOnlyWhatMayBegin) {
  StopStrings stops = StopStrings::create({"</s>", "\n\nUser"}).value();
  EXPECT_EQ(stops.push("Hello"), "Hello");
  EXPECT_EQ(stops.push(" <"), " ");
  EXPECT_EQ(stops.push("b>\n"), "<b>");
  EXPECT_EQ(stops.push("\n"), "");
  EXPECT_EQ(stops.push("\n"), "\n");
  EXPECT_EQ(stops.push("Use"), "");
  EXPECT_FALSE(stops.stopped());
  EXPECT_EQ(stops.push("r: more"), "");
  EXPECT_EQ(stops.stopped(), 1u);
  EXPECT_EQ(stops.push("nothing goes out any more"), "");
  EXPECT_EQ(stops.finish(), "");
}

TEST(StopStrings, GiveBackWhatNeverBecameAStop) {
  StopStrings stops = StopStrings::create({"stop"}).value();
  EXPECT_EQ(stops.push("don't st"), "don't ");
  EXPECT_EQ(stops.finish(), "st");
  EXPECT_FALSE(stops.stopped());
}

TEST(StopStrings, OfTwoAtOnceTheLongerIsTaken) {
  StopStrings stops = StopStrings::create({"b", "aab"}).value();
  EXPECT_EQ(stops.push("xaaab"), "xa");
  EXPECT_EQ(stops.stopped(), 1u);
}

TEST(StopStrings, EmptyOnesAreRefused) {
  EXPECT_EQ(StopStrings::create({"x", ""}).status().message(), "a stop string must not be empty");
}

// What the definition says: the end of the first stop to be complete, the longest of those, and the text
// before it.
struct Stopped {
  std::string text;
  std::optional<size_t> stop;
};
Stopped stop_slowly(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<size_t> found;
    for (size_t i = 0; i < stops.size(); ++i) {
      const bool ends = text.substr(0, end).ends_with(stops[i]);
      if (ends && (!found || stops[i].size() > stops[*found].size())) found = i;
    }
    if (found) return {text.substr(0, end - stops[*found].size()), found};
  }
  return {text, std::nullopt};
}

RC_GTEST_PROP(StopStrings, DoNotDependOnHowTextIsCut, ()) {
  const auto letters = rc::gen::container<std::string>(rc::gen::elementOf(std::string("ab")));
  const auto stops = *rc::gen::container<std::vector<std::string>>(rc::gen::nonEmpty(letters));
  const auto parts = *rc::gen::container<std::vector<std::string>>(letters);
  StopStrings watcher = StopStrings::create(stops).value();
  std::string whole, out;
  for (const std::string& part : parts) {
    whole += part;
    out += watcher.push(part);
    if (watcher.stopped()) break;
    // As much as possible went out: the rest begins some stop.
    const std::string held = whole.substr(out.size());
    RC_ASSERT(std::any_of(stops.begin(), stops.end(), [&](const std::string& stop) { return stop.starts_with(held); }) || held.empty());
  }
  const Stopped expected = stop_slowly(stops, whole);
  RC_ASSERT(watcher.stopped() == expected.stop);
  RC_ASSERT(out + watcher.finish() == expected.text);
}

TEST(Unicode, IllFormedPartsAreReplacedOneByOne) {
  // The examples of the Unicode standard, section 3.9, table 3-8, and what lies around them.
  EXPECT_EQ(replace_ill_formed("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41"), "\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\x41");
  EXPECT_EQ(replace_ill_formed("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41"), "\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\x41");
  EXPECT_EQ(replace_ill_formed("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42"), "\ufffd\ufffd\ufffd\ufffd\ufffd\x41\ufffd\ufffd\x42");
  EXPECT_EQ(replace_ill_formed("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"), "\ufffd\ufffd\ufffd\ufffd\x41");
  EXPECT_EQ(replace_ill_formed("é€😀\U0010ffff"), "é€😀\U0010ffff");
  EXPECT_EQ(replace_ill_formed(""), "");
  EXPECT_TRUE(next_utf8_unit("\xf0\x9f\x98").incomplete);
  EXPECT_FALSE(next_utf8_unit("\xf0\x9f\x41").incomplete);
  EXPECT_EQ(well_formed_prefix("aé\xe2\x82"), 3u);
}

TEST(Unicode, CodePointsGoThereAndBack) {
  for (const char32_t code_point : {U'\0', U'A', U'\x7f', U'\x80', U'\x7ff', U'\x800', U'\uffff', U'\U00010000', U'\U0010ffff'}) {
    std::string text;
    append_utf8(code_point, text);
    EXPECT_EQ(next_utf8_unit(text).length, text.size());
    EXPECT_TRUE(next_utf8_unit(text).well_formed);
    EXPECT_EQ(decode_utf8(text), code_point);
  }
}

TEST(Unicode, ByteAlphabetGoesThereAndBack) {
  std::string bytes, text;
  for (int byte = 0; byte < 256; ++byte) bytes.push_back(static_cast<char>(byte));
  append_byte_level_text(bytes, text);
  std::string back = "x";
  EXPECT_TRUE(append_bytes_of_byte_level_text(text, back));
  EXPECT_EQ(back, "x" + bytes);
  back.clear();
  EXPECT_TRUE(append_bytes_of_byte_level_text("Ġhello", back));
  EXPECT_EQ(back, " hello");
  for (const char* other : {"a日", "a b", "a\xff"}) {
    EXPECT_FALSE(append_bytes_of_byte_level_text(other, back)) << other;
    EXPECT_EQ(back, " hello");
  }
}

TEST(Unicode, NormalisesToComposedForm) {
  std::string storage;
  EXPECT_EQ(to_nfc("cafe\u0301", storage), "café");
  EXPECT_EQ(to_nfc("\u1100\u1161\u11a8", storage), "각");
  const std::string_view composed = "café";
  EXPECT_EQ(to_nfc(composed, storage).data(), composed.data());  // not copied
}

}  // namespace
}  // namespace onset
