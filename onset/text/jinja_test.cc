// The interpreter against jinja2: every case of tests/fixtures/templates/expressions.json, which jinja2
// wrote; and what jinja2 does not tell: limits, what is outside the subset, one template on many threads.
#include "onset/text/jinja.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "onset/base/mapped_file.h"

namespace onset::jinja {
namespace {

using nlohmann::ordered_json;

ordered_json read_fixture(const std::string& name) {
  const auto text = read_file(std::string(ONSET_SOURCE_DIR) + "/tests/fixtures/templates/" + name);
  EXPECT_TRUE(text.ok()) << text.status().message();
  return text.ok() ? ordered_json::parse(*text, nullptr, false) : ordered_json();
}

std::tm time_of(const ordered_json& now) {
  std::tm time{};
  time.tm_year = now.at(0).get<int>() - 1900;
  time.tm_mon = now.at(1).get<int>() - 1;
  time.tm_mday = now.at(2).get<int>();
  time.tm_hour = now.at(3).get<int>();
  time.tm_min = now.at(4).get<int>();
  time.tm_sec = now.at(5).get<int>();
  timegm(&time);  // fills in the day of the week and of the year
  return time;
}

Result<std::string> render(const std::string& source, const ordered_json& variables = ordered_json::object(), const Limits& limits = {},
                           std::optional<std::tm> now = {}) {
  auto parsed = Template::parse(source, limits);
  if (!parsed.ok()) return parsed.status();
  return parsed->render(variables, now);
}

// The text of a template that must not fail.
std::string text_of(const std::string& source, const ordered_json& variables = ordered_json::object(), const Limits& limits = {}) {
  const auto text = render(source, variables, limits);
  return text.ok() ? *text : "error: " + text.status().message();
}

// The error of a template that must fail.
Status status_of(const std::string& source, const ordered_json& variables = ordered_json::object(), const Limits& limits = {}) {
  const auto text = render(source, variables, limits);
  EXPECT_FALSE(text.ok()) << source << " gave " << text.value();
  return text.ok() ? Status() : text.status();
}

TEST(Jinja, equals_jinja2_on_every_case) {
  const ordered_json fixture = read_fixture("expressions.json");
  ASSERT_TRUE(fixture.is_object());
  ASSERT_GE(fixture["cases"].size(), 1200u);
  const std::tm now = time_of(fixture["now"]);
  for (const ordered_json& one : fixture["cases"]) {
    const auto source = one["template"].get<std::string>();
    SCOPED_TRACE(source);
    const ordered_json& variables = one.contains("variables") ? one["variables"] : fixture["variables"];
    const auto text = render(source, variables, {}, now);
    const ordered_json& expected = one["expected"];
    if (expected.contains("text")) {
      ASSERT_TRUE(text.ok()) << text.status().message();
      EXPECT_EQ(*text, expected["text"].get<std::string>());
      continue;
    }
    ASSERT_FALSE(text.ok()) << "gave " << *text << " where jinja2 says " << expected["error"];
    const auto type = expected["type"].get<std::string>();
    const auto message = expected["error"].get<std::string>();
    if (type == "TemplateError") {
      EXPECT_EQ(text.status().message(), message);
    } else if (type == "UndefinedError") {
      EXPECT_NE(text.status().message().find(message), std::string::npos) << text.status().message();
    }
  }
}

TEST(Jinja, errors_name_the_line) {
  EXPECT_EQ(status_of("a\nb\n{{ x.y }}").message(), "template line 3: 'x' is undefined");
  EXPECT_EQ(status_of("a\n{% if x %}\n{% nope %}").message(),
            "template line 3: Encountered unknown tag 'nope'. Jinja was looking for 'elif' or 'else' or 'endif'");
  EXPECT_EQ(status_of("{{ 1 +\n2 3 }}").message(), "template line 2: expected token 'end of print statement', got 'integer'");
  EXPECT_EQ(status_of("{# one #}\n\n{{ 'a\nb' ~ 1 | zz }}").message(), "template line 4: No filter named 'zz'.");
}

TEST(Jinja, errors_stay_short) {
  const Status status = status_of("{{ {}[x].y }}", {{"x", std::string(10000, '\n') + "é"}});
  EXPECT_LT(status.message().size(), 600u);
  EXPECT_EQ(status.message().substr(0, 42), "template line 1: 'dict object' has no attr");
}

TEST(Jinja, raised_messages_stand_as_they_are) {
  const Status status = status_of("\n{{ raise_exception('template line 9: no ' ~ x) }}", {{"x", "é"}});
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_EQ(status.message(), "template line 9: no é");
}

TEST(Jinja, what_is_outside_the_subset_is_named) {
  const auto check = [](const std::string& source, const std::string& message) {
    const Status status = status_of(source);
    EXPECT_EQ(status.code(), Code::unsupported) << source;
    EXPECT_EQ(status.message(), "template line 1: " + message) << source;
  };
  check("{% block a %}{% endblock %}", "the tag 'block' is not supported");
  check("{% extends 'a' %}", "the tag 'extends' is not supported");
  check("{% include 'a' %}", "the tag 'include' is not supported");
  check("{% from 'a' import b %}", "the tag 'from' is not supported");
  check("{% autoescape true %}{% endautoescape %}", "the tag 'autoescape' is not supported");
  check("{{ 'a' | urlize }}", "the filter 'urlize' is not supported");
  check("{% if true %}{{ 'a' | pprint }}{% endif %}", "the filter 'pprint' is not supported");
  check("{{ lipsum() }}", "the function 'lipsum' is not supported");
  check("{{ cycler('a') }}", "the function 'cycler' is not supported");
  check("{{ 'a'.encode() }}", "the method 'encode' of texts is not supported");
  check("{{ {}.fromkeys([]) }}", "the method 'fromkeys' of dictionaries is not supported");
  check("{{ (5).bit_length() }}", "the method 'bit_length' of 'int' is not supported");
  check("{{ (-8) ** 0.5 }}", "complex numbers are not supported");
  check("{{ [1][0:1, 2] }}", "slices in several dimensions are not supported");
}

TEST(Jinja, integers_have_64_bits) {
  EXPECT_EQ(text_of("{{ 9223372036854775807 }}{{ -9223372036854775807 - 1 }}"), "9223372036854775807-9223372036854775808");
  for (const char* source : {"{{ 9223372036854775807 + 1 }}", "{{ -9223372036854775807 - 2 }}", "{{ 2 ** 63 }}",
                             "{{ 4611686018427387904 * 2 }}", "{{ -(-9223372036854775807 - 1) }}", "{{ (-9223372036854775807 - 1) // -1 }}",
                             "{{ (-9223372036854775807 - 1) | abs }}", "{{ 1e19 | int }}", "{{ '9223372036854775808' | int }}"}) {
    EXPECT_EQ(status_of(source).message(), "template line 1: an integer does not fit in 64 bits") << source;
  }
  EXPECT_NE(status_of("{{ 9223372036854775808 }}").message().find("does not fit in 64 bits"), std::string::npos);
  EXPECT_EQ(text_of("{{ (-9223372036854775807 - 1) % -1 }}"), "0");
  // JSON has larger ones.
  EXPECT_EQ(text_of("{{ x }}", {{"x", 18446744073709551615u}}), "1.8446744073709552e+19");
}

TEST(Jinja, refuses_what_is_not_utf8) {
  EXPECT_EQ(status_of("ab\xff").message(), "the template is not valid UTF-8 at byte 2");
  EXPECT_EQ(status_of("{{ x }}", {{"x", "a\x80"}}).message(), "the variables hold text that is not valid UTF-8");
  ordered_json key;
  key["\xc3"] = 1;
  EXPECT_EQ(status_of("{{ x }}", {{"x", key}}).message(), "the variables hold text that is not valid UTF-8");
  EXPECT_EQ(status_of("{{ '\\ud800' }}").message(), "template line 1: half a surrogate pair in a string");
  EXPECT_FALSE(render("x", ordered_json::array()).ok());
}

// --- limits: each of these would run for ages, fill the memory or overflow the stack.

void expect_exhausted(const std::string& source, const std::string& message, const Limits& limits = {}) {
  const auto text = render(source, ordered_json::object(), limits);
  ASSERT_FALSE(text.ok()) << source;
  EXPECT_EQ(text.status().code(), Code::resource_exhausted) << source << ": " << text.status().message();
  EXPECT_NE(text.status().message().find(message), std::string::npos) << source << ": " << text.status().message();
}

std::string repeated(const std::string& text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

TEST(JinjaLimits, time) {
  Limits limits;
  limits.steps = 200'000;
  const std::string loops = repeated("{% for i in range(1000) %}", 4) + "x" + repeated("{% endfor %}", 4);
  expect_exhausted(loops, "takes more than 200000 steps", limits);
  // Nested lists that share their parts have exponentially many leaves.
  const std::string doubled = "{% set ns = namespace(x=1) %}{% for i in range(100) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}";
  expect_exhausted(doubled + "{{ ns.x == (ns.x + ()) }}", "steps", limits);
  expect_exhausted(doubled + "{{ {ns.x: 1} }}", "steps", limits);
  expect_exhausted("{{ 'ab' | center(100000) | list | sort | unique | join('x' * 100000) }}", "steps", limits);
  // A search is linear even for texts made against it.
  EXPECT_EQ(text_of("{{ ('a' * 200000 ~ 'b') in ('a' * 400000) }}{{ ('a' * 300000).split('a' * 1000 ~ 'b') | "
                    "length }}"),
            "False1");
}

TEST(JinjaLimits, memory) {
  expect_exhausted("{{ 'x' * 1000000000000 }}", "makes a text of more than");
  expect_exhausted("{{ [0] * 1000000000000 }}", "bytes of memory");
  expect_exhausted("{{ 'x' | center(99999999999) }}", "makes a text of more than");
  expect_exhausted("{{ '%999999999d' % 1 }}", "makes a text of more than");
  expect_exhausted("{{ '{:999999999}'.format(1) }}", "makes a text of more than");
  expect_exhausted("{{ [[]] | tojson(indent=999999999) }}", "makes a text of more than");
  expect_exhausted("{{ 'a' | indent(99999999999, true) }}", "makes a text of more than");
  expect_exhausted("{{ ('x' * 10000).replace('', 'y' * 100000) }}", "makes a text of more than");
  expect_exhausted("{{ (['x' * 1000000] * 1000) | join('y' * 1000000) }}", "makes a text of more than");
  expect_exhausted("{{ [1] | batch(99999999999, 2) | list }}", "bytes of memory");
  Limits limits;
  limits.memory_bytes = 1 << 20;
  const std::string keep = "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}";
  expect_exhausted(keep + "{% set ns.x = ns.x + ['y' ~ i] %}{% endfor %}", "needs more than 1048576 bytes", limits);
  expect_exhausted(keep + "{% macro m() %}{% endmacro %}{% endfor %}", "needs more than 1048576 bytes", limits);
  expect_exhausted(keep + "{% set n = namespace(up=ns) %}{% endfor %}", "needs more than 1048576 bytes", limits);
  limits.text_bytes = 1000;
  expect_exhausted("{% for i in range(1001) %}x{% endfor %}", "makes a text of more than 1000 bytes", limits);
  limits.source_bytes = 10;
  expect_exhausted("{{ 'too long' }}", "a template of 16 bytes; at most 10 are read", limits);
  // What was let go is free again: this makes 100 MB in all, never 1 MB at once.
  limits = {};
  limits.memory_bytes = 1 << 20;
  EXPECT_EQ(text_of("{% for i in range(1000) %}{% set x = 'y' * 100000 %}{% endfor %}ok", ordered_json::object(), limits), "ok");
}

TEST(JinjaLimits, depth) {
  expect_exhausted("{{ " + repeated("(", 100000) + "1" + repeated(")", 100000) + " }}", "nested more than");
  expect_exhausted("{{ " + repeated("[", 100000), "nested more than");
  expect_exhausted("{{ " + repeated("-", 100000) + "1 }}", "nested more than");
  expect_exhausted("{{ " + repeated("not ", 100000) + "1 }}", "nested more than");
  expect_exhausted("{{ 1 " + repeated("if 1 else 1 ", 10000) + "}}", "nested more than");
  expect_exhausted("{{ 1 " + repeated("| abs ", 10000) + "}}", "nested more than");
  expect_exhausted("{{ x" + repeated(".y", 10000) + " }}", "nested more than");
  expect_exhausted("{{ x" + repeated("[0]", 10000) + " }}", "nested more than");
  expect_exhausted("{{ x" + repeated("()", 10000) + " }}", "nested more than");
  expect_exhausted("{% for " + repeated("(", 10000), "nested more than");
  expect_exhausted(repeated("{% if 1 %}", 10000), "nested more than");
  expect_exhausted("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deep");
  expect_exhausted("{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}", "");
  expect_exhausted("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "nested too deep");
  expect_exhausted("{% set ns = namespace(x=1) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}", "values nested more than");
  expect_exhausted(
      "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = ns.x | map('upper') %}"
      "{% endfor %}",
      "values nested more than");
  expect_exhausted("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}", "nested too deep to print");
  ordered_json deep = 1;
  for (int i = 0; i < 1000; ++i) deep = ordered_json::array({deep});
  EXPECT_EQ(status_of("{{ x }}", {{"x", deep}}).code(), Code::resource_exhausted);
  // Long is not deep.
  EXPECT_EQ(text_of("{{ 0" + repeated(" + 1", 20000) + " }}"), "20000");
  EXPECT_EQ(text_of("{{ ''" + repeated(" ~ 'a'", 2000) + " }}"), repeated("a", 2000));
  EXPECT_EQ(text_of("{% if 0 %}" + repeated("{% elif 0 %}", 2000) + "{% else %}b{% endif %}"), "b");
  EXPECT_EQ(text_of("{{ " + repeated("(", 100) + "1" + repeated(")", 100) + " }}"), "1");
  EXPECT_EQ(text_of("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{% else %}end{% endif %}{% endmacro %}{{ f(100) }}"), "end");
}

// Values that hold themselves must not outlive the rendering (AddressSanitizer's leak check watches).
TEST(Jinja, cycles_are_taken_apart) {
  EXPECT_EQ(text_of("{% set ns = namespace() %}{% set ns.me = [ns] %}{% macro m() %}{{ m is defined }}{% endmacro %}"
                    "{% set ns.m = m %}{% for i in [1] %}{% set ns.l = loop %}{{ loop.changed(loop) }}"
                    "{% macro n() %}{{ i }}{{ n is defined }}{% endmacro %}{% set ns.n = n %}{% endfor %}{{ ns.n() }}"),
            "True1True");
  EXPECT_FALSE(render("{% set ns = namespace() %}{% for x in [1] recursive %}{% set ns.l = loop %}{% endfor %}"
                      "{{ ns.l([1]) }}")
                   .ok());
  EXPECT_EQ(text_of("{% set ns = namespace(g=[]) %}{% set ns.g = [ns] | map(attribute='g') | map('list') %}x"), "x");
  EXPECT_FALSE(render("{% set ns = namespace(g=[]) %}{% set ns.g = [ns] | map(attribute='g') | map('list') %}"
                      "{{ ns.g | list }}")
                   .ok());
}

TEST(Jinja, one_template_renders_on_many_threads) {
  const auto parsed = Template::parse("{% macro m(x) %}<{{ x ~ 'constant' }}>{% endmacro %}{% for i in range(n) %}{{ m(i) }}{% endfor %}");
  ASSERT_TRUE(parsed.ok());
  std::vector<std::string> texts(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < texts.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 50; ++round) texts[t] = *parsed->render({{"n", 20 + t}});
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t t = 0; t < texts.size(); ++t)
    EXPECT_EQ(texts[t], text_of("{% for i in range(n) %}<{{ i }}constant>{% endfor %}", {{"n", 20 + t}}));
}

TEST(Jinja, tells_the_local_time_when_none_is_given) {
  const std::time_t before = std::time(nullptr);
  const auto text = render("{{ strftime_now('%s') }}");
  ASSERT_TRUE(text.ok());
  EXPECT_GE(std::stoll(*text), before);
  EXPECT_LE(std::stoll(*text), std::time(nullptr));
  EXPECT_FALSE(render("{{ strftime_now('%999999999d') }}").ok());
  EXPECT_FALSE(render("{{ strftime_now('x' * 2000) }}").ok());
}

}  // namespace
}  // namespace onset::jinja
