/// all-MiniLM-L6-v2: a BERT encoder of 6 layers that turns sentences into vectors whose dot product is their similarity.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <heed/interop/eigen.hpp>
#include <heed/softmax.hpp>
#include <numeric>
#include <string>
#include <unsupported/Eigen/SpecialFunctions>
#include <utility>
#include <vector>

#include "safetensors.hpp"
#include "wordpiece.hpp"

namespace semantic_search {

using index_t = Eigen::Index;
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using matrix_view = Eigen::Map<const matrix>;
using row_view = Eigen::Map<const Eigen::RowVectorXf>;

/// Calls f(first, rows) for slices of [0, rows), on all threads.
template <class F>
void for_row_slices(index_t rows, F f) {
  constexpr index_t slice = 16;
#if defined(_OPENMP)
#pragma omp parallel for
#endif
  for (index_t first = 0; first < rows; first += slice) f(first, std::min(slice, rows - first));
}

struct linear {
  matrix_view weight;  // [out, in]
  row_view bias;

  /// out = in weight^T + bias
  void operator()(const Eigen::Ref<const matrix>& in, Eigen::Ref<matrix> out) const {
    for_row_slices(out.rows(), [&](index_t first, index_t rows) { out.middleRows(first, rows).rowwise() = bias; });
    out.noalias() += in * weight.transpose();
  }
};

struct layer_norm {
  row_view weight, bias;

  void operator()(Eigen::Ref<Eigen::RowVectorXf> row) const {
    constexpr float epsilon = 1e-12f;
    row.array() -= row.mean();
    const float scale = 1 / std::sqrt(row.squaredNorm() / static_cast<float>(row.size()) + epsilon);
    row.array() = row.array() * scale * weight.array() + bias.array();
  }
};

class minilm {
 public:
  static constexpr index_t vocabulary = 30522, positions = 512, layers = 6, heads = 12, head_size = 32, inner = 1536;
  static constexpr index_t hidden = heads * head_size;
  /// Longer sentences are cut, as in the model's own configuration.
  static constexpr std::size_t max_tokens = 256;

  /// What embedding has cost so far.
  struct cost {
    std::int64_t tokens = 0;
    std::chrono::duration<double> total{0}, attention{0};
  };

  /// Reads model.safetensors and vocab.txt of a folder.
  explicit minilm(const std::filesystem::path& folder)
      : weights_(folder / "model.safetensors"),
        tokenizer_(folder / "vocab.txt"),
        words_(table("embeddings.word_embeddings.weight", vocabulary, hidden)),
        positions_(table("embeddings.position_embeddings.weight", positions, hidden)),
        types_(table("embeddings.token_type_embeddings.weight", 2, hidden)),
        norm_(read_norm("embeddings.LayerNorm.")) {
    for (index_t i = 0; i < layers; ++i) {
      const std::string name = "encoder.layer." + std::to_string(i) + ".";
      blocks_.push_back({fuse_qkv(name + "attention.self."), read_linear(name + "attention.output.dense.", hidden, hidden),
                         read_linear(name + "intermediate.dense.", inner, hidden),
                         read_linear(name + "output.dense.", hidden, inner),
                         read_norm(name + "attention.output.LayerNorm."), read_norm(name + "output.LayerNorm.")});
    }
  }

  token_ids tokenize(std::string_view text) const { return tokenizer_.encode(text, max_tokens); }

  /// Unit vectors, one row for each sentence. Sentences of like length go through the layers together, packed without
  /// padding into batches of at most batch_tokens (a longer sentence is a batch of its own); after_batch is told how many
  /// sentences are done.
  matrix embed(const std::vector<token_ids>& sentences, std::int64_t batch_tokens = 1024,
               const std::function<void(std::size_t)>& after_batch = {}) {
    const auto start = clock::now();
    matrix vectors(static_cast<index_t>(sentences.size()), hidden);
    std::vector<std::size_t> order(sentences.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return std::pair(sentences[a].size(), a) < std::pair(sentences[b].size(), b);
    });
    for (std::size_t first = 0, last = 0; first < order.size(); first = last) {
      std::vector<std::int32_t> offsets = {0};
      do {
        offsets.push_back(offsets.back() + static_cast<std::int32_t>(sentences[order[last++]].size()));
      } while (last < order.size() && offsets.back() + std::ssize(sentences[order[last]]) <= batch_tokens);
      look_up(sentences, order.data() + first, offsets);
      for (const block& layer : blocks_) run(layer, offsets);
      for (std::size_t i = first; i < last; ++i) {
        const std::int32_t begin = offsets[i - first], end = offsets[i - first + 1];
        vectors.row(static_cast<index_t>(order[i])) =
            state_.middleRows(begin, end - begin).colwise().mean().normalized();
      }
      spent_.tokens += offsets.back();
      spent_.total = spent_before_ + (clock::now() - start);
      if (after_batch) after_batch(last);
    }
    spent_before_ = spent_.total;
    return vectors;
  }

  const cost& spent() const { return spent_; }

 private:
  using clock = std::chrono::steady_clock;

  struct fused {
    matrix weight;  // [3 hidden, hidden]: rows of q, k, v
    Eigen::RowVectorXf bias;
  };

  struct block {
    fused qkv;
    linear attended, expand, contract;
    layer_norm after_attention, after_expansion;
  };

  matrix_view table(const std::string& name, index_t rows, index_t columns) const {
    const auto extent = [](index_t n) { return static_cast<std::uint64_t>(n); };
    return {weights_.floats(name, {extent(rows), extent(columns)}), rows, columns};
  }

  row_view row(const std::string& name, index_t size) const {
    return {weights_.floats(name, {static_cast<std::uint64_t>(size)}), size};
  }

  linear read_linear(const std::string& name, index_t out, index_t in) const {
    return {table(name + "weight", out, in), row(name + "bias", out)};
  }

  layer_norm read_norm(const std::string& name) const {
    return {row(name + "weight", hidden), row(name + "bias", hidden)};
  }

  /// One matrix instead of three: a single product then fills q, k and v for all tokens.
  fused fuse_qkv(const std::string& name) const {
    fused all{matrix(3 * hidden, hidden), Eigen::RowVectorXf(3 * hidden)};
    index_t part = 0;
    for (const char* which : {"query.", "key.", "value."}) {
      const linear one = read_linear(name + which, hidden, hidden);
      all.weight.middleRows(part, hidden) = one.weight;
      all.bias.segment(part, hidden) = one.bias;
      part += hidden;
    }
    return all;
  }

  /// state = norm(word + position + type embeddings), for the sentences order[0], order[1], ...
  void look_up(const std::vector<token_ids>& sentences, const std::size_t* order,
               const std::vector<std::int32_t>& offsets) {
    state_.resize(offsets.back(), hidden);
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
      const token_ids& ids = sentences[order[s]];
      for (std::size_t i = 0; i < ids.size(); ++i) {
        auto token = state_.row(offsets[s] + static_cast<index_t>(i));
        token = words_.row(ids[i]) + positions_.row(static_cast<index_t>(i)) + types_.row(0);
        norm_(token);
      }
    }
  }

  void run(const block& layer, const std::vector<std::int32_t>& offsets) {
    const index_t tokens = state_.rows();
    qkv_.resize(tokens, 3 * hidden);
    context_.resize(tokens, hidden);
    change_.resize(tokens, hidden);
    inner_.resize(tokens, inner);

    linear{{layer.qkv.weight.data(), 3 * hidden, hidden}, {layer.qkv.bias.data(), 3 * hidden}}(state_, qkv_);
    attend(offsets);
    layer.attended(context_, change_);
    add(layer.after_attention);

    layer.expand(state_, inner_);
    for_row_slices(tokens, [&](index_t first, index_t rows) {
      auto slice = inner_.middleRows(first, rows).array();
      slice *= 0.5f * (1 + (slice * float(M_SQRT1_2)).erf());
    });
    layer.contract(inner_, change_);
    add(layer.after_expansion);
  }

  /// context = attention within each sentence. q, k and v are read where the product left them: token t of head h begins
  /// at row t, column h * head_size of its third.
  void attend(const std::vector<std::int32_t>& offsets) {
    const auto start = clock::now();
    const index_t tokens = qkv_.rows();
    const auto third = [&](index_t i) {
      return heed::view<const float, 4>(qkv_.data() + i * hidden, {1, heads, tokens, head_size},
                                        {tokens * 3 * hidden, head_size, 3 * hidden, 1});
    };
    const heed::view<float, 4> out(context_.data(), {1, heads, tokens, head_size},
                                   {tokens * hidden, head_size, hidden, 1});
    heed::softmax_forward(third(0), third(1), third(2), out, {.cu_seqlens_q = offsets, .cu_seqlens_k = offsets});
    spent_.attention += clock::now() - start;
  }

  /// state = norm(state + change)
  void add(const layer_norm& norm) {
    for_row_slices(state_.rows(), [&](index_t first, index_t rows) {
      state_.middleRows(first, rows) += change_.middleRows(first, rows);
      for (index_t i = first; i < first + rows; ++i) norm(state_.row(i));
    });
  }

  safetensors weights_;
  wordpiece tokenizer_;
  matrix_view words_, positions_, types_;
  layer_norm norm_;
  std::vector<block> blocks_;
  matrix state_, qkv_, context_, change_, inner_;  // a row for each token of the batch
  cost spent_;
  std::chrono::duration<double> spent_before_{0};
};

}  // namespace semantic_search
