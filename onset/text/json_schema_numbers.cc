// Numbers between bounds, digit by digit: a place in front of each digit knows whether what was written so
// far equals the beginning of the lower and of the upper bound.
#include <algorithm>
#include <tuple>

#include "onset/text/json_schema_compiler.h"

namespace onset {
namespace {

using Place = AutomatonDraft::Place;

constexpr size_t most_whole_digits = 19, most_part_digits = 20;

// Numbers without a sign between two bounds of the same sign.
class MagnitudePaths {
 public:
  MagnitudePaths(AutomatonDraft& draft, const DecimalBound& low, const std::optional<DecimalBound>& high, bool integers)
      : draft_(draft), low_(low), high_(high), integers_(integers), end_(draft.add()) {}

  Place add(Place from) {
    for (size_t digits = 1; digits <= most_whole_digits; ++digits) add_length(from, digits);
    return end_;
  }

 private:
  // What was written so far equals the beginning of the bounds.
  struct Tight {
    bool low = false, high = false;
    auto operator<=>(const Tight&) const = default;
  };

  static unsigned digit(const std::string& digits, size_t at) { return at < digits.size() ? static_cast<unsigned>(digits[at] - '0') : 0; }

  void add_length(Place from, size_t digits) {
    const size_t low_digits = std::max<size_t>(low_.whole.size(), 1);
    if (digits < low_digits) return;
    Tight tight{.low = digits == low_digits, .high = false};
    if (high_) {
      const size_t high_digits = std::max<size_t>(high_->whole.size(), 1);
      if (digits > high_digits) return;
      tight.high = digits == high_digits;
    }
    whole_.clear();
    add_whole(from, digits, 0, tight);
  }

  void add_whole(Place from, size_t digits, size_t at, Tight tight) {
    if (at == digits) return add_end(from, tight);
    const unsigned first = at == 0 && digits > 1 ? 1 : 0;
    const unsigned low = tight.low ? std::max(first, digit(low_.whole, at)) : first;
    const unsigned high = tight.high ? digit(high_->whole, at) : 9;
    for (unsigned value = low; value <= high; ++value) {
      const Tight next = follow(tight, value, low_.whole, high_ ? high_->whole : low_.whole, at);
      const auto [found, added] = whole_.try_emplace({at + 1, next}, 0);
      if (added) found->second = draft_.add();
      const Place to = found->second;
      draft_.edge(from, '0' + value, '0' + value, to);
      if (added) add_whole(to, digits, at + 1, next);
    }
  }

  static Tight follow(Tight tight, unsigned value, const std::string& low, const std::string& high, size_t at) {
    return {tight.low && value == digit(low, at), tight.high && value == digit(high, at)};
  }

  // After the digits before the point.
  void add_end(Place from, Tight tight) {
    if (may_end(tight, 0)) draft_.skip(from, end_);
    if (integers_) return;
    const Place point = draft_.add();
    draft_.edge(from, '.', '.', point);
    add_part(point, 0, tight);
  }

  void add_part(Place from, size_t at, Tight tight) {
    if (at == most_part_digits) return;
    const unsigned low = tight.low ? digit(low_.part, at) : 0;
    const unsigned high = tight.high ? digit(high_->part, at) : 9;
    for (unsigned value = low; value <= high; ++value) {
      const Tight next = follow(tight, value, low_.part, high_ ? high_->part : low_.part, at);
      const auto [found, added] = part_.try_emplace({at + 1, next}, 0);
      if (added) found->second = draft_.add();
      const Place to = found->second;
      draft_.edge(from, '0' + value, '0' + value, to);
      if (!added) continue;
      if (may_end(next, at + 1)) draft_.skip(to, end_);
      add_part(to, at + 1, next);
    }
  }

  // Whether the number written so far, with `at` digits after the point, lies within the bounds.
  bool may_end(Tight tight, size_t at) const {
    const bool low_done = at >= low_.part.size();  // no zeros at its end: any rest is above 0
    if (tight.low && (!low_done || low_.exclusive)) return false;
    return !tight.high || at < high_->part.size() || !high_->exclusive;
  }

  AutomatonDraft& draft_;
  const DecimalBound& low_;
  const std::optional<DecimalBound>& high_;
  bool integers_;
  Place end_;
  std::map<std::pair<size_t, Tight>, Place> whole_, part_;
};

}  // namespace

DecimalBound DecimalBound::of(const nlohmann::ordered_json& number, bool exclusive) {
  DecimalBound bound;
  bound.exclusive = exclusive;
  std::string text = number.is_number_float()      ? fmt::format("{}", number.get<double>())
                     : number.is_number_unsigned() ? fmt::format("{}", number.get<uint64_t>())
                                                   : fmt::format("{}", number.get<int64_t>());
  if (text[0] == '-') bound.negative = true, text.erase(0, 1);
  int exponent = 0;
  if (const size_t at = text.find('e'); at != std::string::npos) {
    exponent = std::stoi(text.substr(at + 1));
    text.resize(at);
  }
  const size_t point = std::min(text.find('.'), text.size());
  std::string digits = text;
  digits.erase(std::remove(digits.begin(), digits.end(), '.'), digits.end());
  const int whole = static_cast<int>(point) + exponent;
  if (whole < 0) digits.insert(0, static_cast<size_t>(-whole), '0');
  if (whole > static_cast<int>(digits.size())) digits.append(static_cast<size_t>(whole) - digits.size(), '0');
  const auto split = static_cast<size_t>(std::max(0, whole));
  bound.whole = digits.substr(0, split);
  bound.part = digits.substr(split);
  bound.whole.erase(0, std::min(bound.whole.find_first_not_of('0'), bound.whole.size()));
  bound.part.resize(bound.part.find_last_not_of('0') + 1);
  if (bound.whole.empty() && bound.part.empty()) bound.negative = false;
  return bound;
}

int DecimalBound::compare(const DecimalBound& a, const DecimalBound& b) {
  if (a.negative != b.negative) return a.negative ? -1 : 1;
  const auto key = [](const DecimalBound& bound) { return std::tuple(bound.whole.size(), bound.whole, bound.part); };
  const int order = key(a) < key(b) ? -1 : key(b) < key(a) ? 1 : 0;
  return a.negative ? -order : order;
}

Place add_decimals(AutomatonDraft& draft, Place from, const std::optional<DecimalBound>& low, const std::optional<DecimalBound>& high,
                   bool integers) {
  const DecimalBound zero;
  const Place end = draft.add();
  if (!high || DecimalBound::compare(*high, zero) >= 0) {
    const bool above = low && DecimalBound::compare(*low, zero) >= 0;
    draft.skip(MagnitudePaths(draft, above ? *low : zero, high, integers).add(from), end);
  }
  if (!low || low->negative) {
    const Place sign = draft.add();
    draft.edge(from, '-', '-', sign);
    const bool below = high && high->negative;
    DecimalBound least = below ? *high : zero;
    // Zero with a sign is zero too: it must not slip past a bound that leaves it out.
    if (!below && high && DecimalBound::compare(*high, zero) == 0) least.exclusive = high->exclusive;
    const std::optional<DecimalBound> most = low;
    draft.skip(MagnitudePaths(draft, least, most, integers).add(sign), end);
  }
  return end;
}

Place add_number(AutomatonDraft& draft, Place from, bool integers) {
  const auto digits = [&](Place at, char first, char last) {
    const Place to = draft.add();
    draft.edge(at, static_cast<uint8_t>(first), static_cast<uint8_t>(last), to);
    return to;
  };
  const Place sign = digits(from, '-', '-');
  const Place begin = draft.add(), whole_end = draft.add(), end = draft.add();
  draft.skip(from, begin);
  draft.skip(sign, begin);
  draft.skip(digits(begin, '0', '0'), whole_end);
  Place at = digits(begin, '1', '9');
  for (size_t i = 1; i < most_whole_digits; ++i) draft.skip(at, whole_end), at = digits(at, '0', '9');
  draft.skip(at, whole_end);
  draft.skip(whole_end, end);
  if (integers) return end;

  const Place part_end = draft.add();
  at = digits(whole_end, '.', '.');
  for (size_t i = 0; i < most_part_digits; ++i) at = digits(at, '0', '9'), draft.skip(at, part_end);
  draft.skip(part_end, end);
  const Place exponent = draft.add(), minus = draft.add(), plus = draft.add();
  for (const Place before : {whole_end, part_end}) {
    draft.edge(before, 'e', 'e', exponent);
    draft.edge(before, 'E', 'E', exponent);
  }
  draft.edge(exponent, '-', '-', minus);
  draft.edge(exponent, '+', '+', plus);
  draft.skip(exponent, plus);
  for (Place place = minus, i = 0; i < 3; ++i) place = digits(place, '0', '9'), draft.skip(place, end);
  // So that nineteen digits and the exponent stay below the largest double: at most 289.
  const Place one = digits(plus, '0', '9');
  draft.skip(one, end);
  draft.skip(digits(one, '0', '9'), end);
  draft.skip(digits(digits(digits(plus, '0', '1'), '0', '9'), '0', '9'), end);
  draft.skip(digits(digits(digits(plus, '2', '2'), '0', '8'), '0', '9'), end);
  return end;
}

Automaton multiples(uint32_t divisor) {
  // States: the start, behind a sign, behind a lone zero, and the remainders.
  const auto remainder = [](uint32_t value) { return 3 + value; };
  Automaton automaton;
  automaton.states.resize(3 + size_t{divisor});
  const auto add_digits = [&](uint32_t state, uint32_t first, uint32_t value) {
    for (uint32_t digit = first; digit <= 9; ++digit) {
      automaton.states[state].edges.push_back({'0' + digit, '0' + digit, CountMark::none, remainder((value * 10 + digit) % divisor)});
    }
  };
  automaton.states[0].edges = {{'-', '-', CountMark::none, 1}, {'0', '0', CountMark::none, 2}};
  automaton.states[1].edges = {{'0', '0', CountMark::none, 2}};
  automaton.states[2].final = true;
  add_digits(0, 1, 0);
  add_digits(1, 1, 0);
  for (uint32_t value = 0; value < divisor; ++value) add_digits(remainder(value), 0, value);
  automaton.states[remainder(0)].final = true;
  return automaton;
}

}  // namespace onset
