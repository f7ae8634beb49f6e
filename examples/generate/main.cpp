// Continues texts by what they repeat, many at a time, over paged caches, and checks every step against reading the
// whole text anew.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "arguments.hpp"
#include "copying.hpp"
#include "recompute.hpp"
#include "server.hpp"

namespace {

using namespace command_line;
using namespace generate;

constexpr const char* usage = R"(usage: generate [option]...

Continues each prompt up to its first full stop with a small decoder whose weights are set by hand, over paged caches.

  --prompt TEXT     what to continue; may be given several times (default: a few texts, some with a common beginning)
  --rows FORMAT     how caches store keys and values: float, bfloat16 or int8 (default: bfloat16)
  --slots B         texts at a time (default: 4)
  --page TOKENS     tokens in a page (default: 16)
  --no-check        do not compute every text anew without caches
  --help            print this

OMP_NUM_THREADS sets the number of threads.
)";

struct arguments {
  std::vector<std::string> prompts;
  std::string rows = "bfloat16";
  server_settings server{.most_tokens = longest_text};
  bool check = true, help = false;
};

arguments read_arguments(int count, char** given) {
  arguments a;
  for_each_option(count, given, [&](std::string_view option, const auto& value) {
    if (option == "--prompt")
      a.prompts.push_back(value());
    else if (option == "--rows")
      a.rows = value();
    else if (option == "--slots")
      a.server.slots = number<index_t>(option, value(), 1, 1024);
    else if (option == "--page")
      a.server.page_size = number<index_t>(option, value(), 1, 1024);
    else if (option == "--no-check")
      a.check = false;
    else if (option == "--help" || option == "-h")
      a.help = true;
    else
      throw usage_error("unknown option '" + std::string(option) + "'");
  });
  if (a.prompts.empty()) {
    const std::string verse =
        "This is the house that jack built. This is the malt that lay in the house that jack built. ";
    a.prompts = {"the cat sat on the mat. the c",
                 verse + "This is the m",
                 "She sells sea shells by the sea shore. she se",
                 verse + "in the h",
                 "It rains. It pours. ",
                 verse + "Is this the house th",
                 "One fish, two fish, red fish, blue fish. One f",
                 verse + "This is the h",
                 "Row, row, row your boat gently down the stream. Row, row, row y"};
  }
  return a;
}

double per_second(index_t tokens, std::chrono::duration<double> time) {
  return tokens == 0 ? 0 : static_cast<double>(tokens) / time.count();
}

template <class Rows>
bool run(const arguments& a) {
  const decoder model = copying_decoder();
  std::vector<token_ids> prompts;
  for (const std::string& prompt : a.prompts) prompts.push_back(encode(prompt));

  server<Rows> serving(model, a.server);
  const std::vector<completion> texts = serving.serve(prompts);
  for (const completion& text : texts) {
    const auto end_of_prompt = text.tokens.begin() + text.prompt_length;
    std::printf("%s|%s\n", decode({text.tokens.begin(), end_of_prompt}).c_str(),
                decode({end_of_prompt, text.tokens.end()}).c_str());
  }

  const server_cost& cost = serving.cost();
  std::printf("\n%lld texts, %lld at a time, %s rows in pages of %lld tokens\n", static_cast<long long>(texts.size()),
              static_cast<long long>(a.server.slots), a.rows.c_str(), static_cast<long long>(a.server.page_size));
  std::printf("read    %5lld tokens of prompts, %.0f tokens/s; %lld more were in pages of other texts\n",
              static_cast<long long>(cost.prefilled), per_second(cost.prefilled, cost.prefilling),
              static_cast<long long>(cost.shared));
  std::printf("stepped %5lld tokens, %.0f tokens/s\n", static_cast<long long>(cost.decoded),
              per_second(cost.decoded, cost.decoding));
  std::printf("pages   %5lld of %lld in use at most, %lld in the end\n", static_cast<long long>(cost.most_pages),
              static_cast<long long>(serving.pool_pages()), static_cast<long long>(serving.pages_in_use()));
  if (!a.check) return true;

  agreement check;
  for (const completion& text : texts) recompute(model, text, check);
  std::printf("checked %5lld tokens: %lld chosen again without caches, logits differ by at most %.1e\n",
              static_cast<long long>(check.tokens), static_cast<long long>(check.same), check.largest_difference);
  return check.good();
}

bool run_with_rows(const arguments& a) {
  if (a.rows == "float") return run<float>(a);
  if (a.rows == "bfloat16") return run<heed::bfloat16>(a);
  if (a.rows == "int8") return run<heed::int8_rows>(a);
  throw usage_error("--rows needs float, bfloat16 or int8, not '" + a.rows + "'");
}

}  // namespace

int main(int count, char** given) {
  try {
    const arguments a = read_arguments(count, given);
    if (a.help) {
      std::fputs(usage, stdout);
      return 0;
    }
    if (run_with_rows(a)) return 0;
    std::fprintf(stderr, "generate: the texts differ from those computed anew\n");
    return 1;
  } catch (const usage_error& error) {
    std::fprintf(stderr, "generate: %s; see generate --help\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "generate: %s\n", error.what());
    return 1;
  }
}
