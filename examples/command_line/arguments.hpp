/// Command lines of the examples: options, most of them with a value.
#pragma once

#include <charconv>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace command_line {

/// A mistake in the command line; main adds where help is.
struct usage_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A number of this range, which is of the type asked for.
template <class Number>
Number number(std::string_view option, std::string_view text, Number least, Number most) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= least && value <= most))
    throw usage_error(std::string(option) + (std::is_integral_v<Number> ? " needs a whole number" : " needs a number") +
                      " from " + std::to_string(least) + " to " + std::to_string(most) + ", not '" + std::string(text) +
                      "'");
  return value;
}

/// Calls take(option, value) for each option, where value() gives what follows it.
template <class Take>
void for_each_option(int count, char** given, const Take& take) {
  for (int i = 1; i < count; ++i) {
    const std::string_view option = given[i];
    const auto value = [&]() -> std::string {
      if (++i == count) throw usage_error(std::string(option) + " needs a value");
      return given[i];
    };
    take(option, value);
  }
}

}  // namespace command_line
