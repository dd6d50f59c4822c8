#include "onset/select/named.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "onset/select/lazy.h"

namespace onset {
namespace {

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

template <typename Number>
bool read_number(const std::string& text, Number& number) {
  const auto [end, wrong] = std::from_chars(text.data(), text.data() + text.size(), number);
  return wrong == std::errc() && end == text.data() + text.size();
}

// Where schedules of the paper's kind prune, as shares of the layers, and what they keep.
struct Preset {
  const char* name;
  double layers[3];
  double keep[3];
};
constexpr Preset presets[] = {{"mild", {0.3, 0.6, 0.9}, {0.7, 0.7, 0.7}},
                              {"medium", {0.3, 0.6, 0.9}, {0.7, 0.5, 0.3}},
                              {"fast", {4.0 / 30, 10.0 / 30, 18.0 / 30}, {0.5, 0.5, 0.5}}};

class AllSpec : public SelectSpec {
 public:
  Result<std::unique_ptr<SelectPolicy>> make(const CacheLayout&) const override { return std::unique_ptr<SelectPolicy>(); }
};

class LazySpec : public SelectSpec {
 public:
  LazySpec(LazyOptions options, const Preset* preset) : options_(std::move(options)), preset_(preset) {}

  Result<std::unique_ptr<SelectPolicy>> make(const CacheLayout& layout) const override {
    LazyOptions options = options_;
    if (preset_ != nullptr) {
      for (const double share : preset_->layers) {
        options.layers.push_back(std::min(static_cast<int32_t>(std::lround(layout.layers * share)), layout.layers - 1));
      }
      options.keep.assign(std::begin(preset_->keep), std::end(preset_->keep));
    }
    ONSET_ASSIGN(std::unique_ptr<LazySelect> policy, LazySelect::create(std::move(options), layout));
    return std::unique_ptr<SelectPolicy>(std::move(policy));
  }

 private:
  LazyOptions options_;
  const Preset* preset_;  // null: the options say it all
};

Status wrong(const std::string& text, const std::string& part, const std::string& expected) {
  return error(Code::invalid_argument, "select policy {}: {} is not {}", text, part.empty() ? "an empty part" : part, expected);
}

Status read_option(const std::string& text, const std::string& part, LazyOptions& options) {
  const size_t equals = part.find('=');
  const std::string name = part.substr(0, equals), value = part.substr(equals + 1);
  if (name == "revive" || name == "least") {
    int32_t& number = name == "revive" ? options.most_revived : options.least_tokens;
    if (read_number(value, number) && number >= 0) return {};
    return wrong(text, part, name + "=N with a number of tokens");
  }
  if (name == "score") {
    options.score = value == "random" ? LazyScore::random : LazyScore::attention;
    if (value == "random" || value == "attention") return {};
    return wrong(text, part, "score=attention or score=random");
  }
  return wrong(text, part, "revive=N, least=N or score=attention or random");
}

Result<std::shared_ptr<const SelectSpec>> lazy_spec(const std::string& text, const std::vector<std::string>& parts) {
  LazyOptions options{.layers = {}, .keep = {}, .name = text};
  const auto is_option = [&](size_t i) { return parts[i].find('=') != std::string::npos; };
  const Preset* preset = &presets[0];
  size_t at = 1;
  if (at < parts.size() && !is_option(at)) {
    const auto named = std::find_if(std::begin(presets), std::end(presets), [&](const Preset& each) { return parts[at] == each.name; });
    preset = named == std::end(presets) ? nullptr : named;
    if (preset == nullptr) {
      for (const std::string& part : split(parts[at], ',')) {
        if (!read_number(part, options.layers.emplace_back())) return wrong(text, part, "a layer, mild, medium or fast");
      }
      if (++at == parts.size() || is_option(at)) {
        return error(Code::invalid_argument, "select policy {}: the shares to keep are missing, expected lazyllm:LAYERS:KEEP as in {}",
                     text, "lazyllm:9,18,27:0.7");
      }
      for (const std::string& part : split(parts[at], ',')) {
        if (!read_number(part, options.keep.emplace_back())) return wrong(text, part, "a share to keep");
        if (!(options.keep.back() > 0 && options.keep.back() <= 1)) return wrong(text, part, "a share of more than 0 and at most 1");
      }
    }
    ++at;
  }
  for (; at < parts.size(); ++at) {
    if (!is_option(at)) return wrong(text, parts[at], "an option (revive=N, least=N, score=random)");
    ONSET_TRY(read_option(text, parts[at], options));
  }
  return std::shared_ptr<const SelectSpec>(std::make_shared<LazySpec>(std::move(options), preset));
}

}  // namespace

bool is_select_name(std::string_view text) {
  const std::string_view name = text.substr(0, text.find(':'));
  return name == "all" || name == "lazyllm";
}

Result<std::shared_ptr<const SelectSpec>> named_select(const std::string& text) {
  const std::vector<std::string> parts = split(text, ':');
  if (text == "all") return std::shared_ptr<const SelectSpec>(std::make_shared<AllSpec>());
  if (parts[0] == "lazyllm") return lazy_spec(text, parts);
  return error(Code::invalid_argument, "there is no select policy {}, expected all, lazyllm or lazyllm:LAYERS:KEEP as in {}",
               text.empty() ? "without a name" : parts[0], "lazyllm:9,18,27:0.7");
}

}  // namespace onset
