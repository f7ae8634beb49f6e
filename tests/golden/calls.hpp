/// Calls of operators with their results, which another implementation computed in double (the make_golden.py scripts).
#pragma once

#include <heed/core/tensor.hpp>

#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace golden {

using heed::index_t;

/// Tensors and numbers by name; numbers that are not given are the default.
class stored_call {
 public:
  explicit stored_call(std::string its_name) : name(std::move(its_name)) {}

  bool has(const std::string& tensor) const { return tensors_.count(tensor) > 0; }
  std::size_t rank(const std::string& tensor) const { return tensors_.at(tensor).extents.size(); }

  /// Inputs are such that the element type of an operator's argument holds them exactly.
  template <class T, int Rank>
  heed::tensor<T, Rank> get(const std::string& tensor) const {
    const stored& from = tensors_.at(tensor);
    if (from.extents.size() != Rank) throw std::runtime_error(name + ": " + tensor + " has another rank");
    index_t extents[Rank];
    for (std::size_t axis = 0; axis < Rank; ++axis) extents[axis] = from.extents[axis];
    heed::tensor<T, Rank> to(extents);
    for (index_t i = 0; i < to.size(); ++i) to.data()[i] = T(from.elements[static_cast<std::size_t>(i)]);
    return to;
  }

  double number(const std::string& of, double otherwise) const {
    const auto found = numbers_.find(of);
    return found == numbers_.end() ? otherwise : found->second;
  }

  std::string name;

 private:
  friend std::vector<stored_call> read_calls(const std::string& path);

  struct stored {
    std::vector<index_t> extents;
    std::vector<double> elements;
  };
  std::map<std::string, stored> tensors_;
  std::map<std::string, double> numbers_;
};

/// Path: of a file below tests/golden.
inline std::vector<stored_call> read_calls(const std::string& path) {
  std::ifstream file(HEED_GOLDEN_DIR "/" + path);
  if (!file) throw std::runtime_error("cannot read " HEED_GOLDEN_DIR "/" + path);
  std::vector<stored_call> cases;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string kind, name;
    words >> kind;
    if (kind == "case") cases.emplace_back(line.substr(kind.size() + 1));
    if (kind == "number") {
      words >> name;
      words >> cases.back().numbers_[name];
    }
    if (kind == "tensor") {
      words >> name;
      auto& tensor = cases.back().tensors_[name];
      std::size_t size = 1;
      for (index_t extent = 0; words >> extent; size *= static_cast<std::size_t>(extent))
        tensor.extents.push_back(extent);
      std::getline(file, line);
      // Streams do not read -inf.
      const char* at = line.c_str();
      for (char* end = nullptr;; at = end) {
        const double x = std::strtod(at, &end);
        if (end == at) break;
        tensor.elements.push_back(x);
      }
      if (tensor.elements.size() != size) throw std::runtime_error(cases.back().name + ": " + name + " is cut short");
    }
  }
  return cases;
}

}  // namespace golden
