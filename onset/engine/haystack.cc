#include "onset/engine/haystack.h"

#include <cmath>
#include <map>

namespace onset {
namespace {

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

// Whether a sentence ends before text[at], which is white space: behind its last mark (and quotes), or where an empty line follows.
bool ends_before(const std::string& text, size_t at) {
  if (text[at] == '\n' && at + 1 < text.size() && text[at + 1] == '\n') return true;
  size_t mark = at;
  while (mark > 0 && (text[mark - 1] == '"' || text[mark - 1] == '\'' || text[mark - 1] == ')')) --mark;
  return mark > 0 && (text[mark - 1] == '.' || text[mark - 1] == '!' || text[mark - 1] == '?');
}

}  // namespace

Haystack Haystack::noise() {
  return Haystack(
      {"The door is open. ", "The river is wide. ", "Here comes the rain. ", "We walk up the hill. ", "Then we walk down again. "});
}

Result<Haystack> Haystack::of_text(const std::string& text) {
  std::vector<std::string> sentences;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = begin;
    while (end < text.size() && !(end > begin && is_space(text[end]) && ends_before(text, end))) ++end;
    while (end < text.size() && is_space(text[end])) ++end;
    sentences.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  // The text's end has to be followed by its beginning.
  if (!sentences.empty() && !is_space(sentences.back().back())) sentences.back() += "\n";
  if (sentences.size() >= 2) return Haystack(std::move(sentences));
  return error(Code::invalid_argument, "the text has fewer than two sentences, and needles go between sentences");
}

std::string Haystack::text(uint64_t first, int64_t count, std::span<const HiddenSentence> hidden) const {
  std::multimap<int64_t, const HiddenSentence*> places;  // those of one place in their order
  for (const HiddenSentence& sentence : hidden) places.emplace(std::llround(sentence.depth * static_cast<double>(count)), &sentence);
  std::string text;
  auto next = places.begin();
  for (int64_t i = 0; i <= count; ++i) {
    for (; next != places.end() && next->first <= i; ++next) text += next->second->text + " ";
    if (i < count) text += sentences_[(first + static_cast<uint64_t>(i)) % sentences_.size()];
  }
  return text;
}

}  // namespace onset
